"""transformers' ImageProcessingTestMixin on MTLDImageProcessor."""

import unittest
from unittest import mock

from skips import skips
from transformers_tests.test_image_processing_common import ImageProcessingTester, ImageProcessingTestMixin

from modeling_mtld.image_processing_mtld import MTLDImageProcessor

ONE_CLASS = "MTLDImageProcessor is one class for all: there is no second backend to compare it with"


class MTLDImageProcessingTester(ImageProcessingTester):
    batch_size = 7
    num_channels = 3
    min_resolution = 30
    max_resolution = 400

    def __init__(self, parent):
        self.parent = parent
        self.image_processing_classes = parent.image_processing_classes
        self.size = {"height": 20, "width": 20}

    def prepare_image_processor_dict(self) -> dict:
        """Every setting, with another value than its default."""
        return {
            "size": self.size,
            "do_convert_rgb": True,
            "do_rescale": True,
            "rescale_factor": 1 / 127,
            "do_normalize": True,
            "image_mean": [0.5, 0.4, 0.3],
            "image_std": [0.3, 0.4, 0.5],
            "box_enlargement": 1.5,
        }


@skips(
    {
        "test_backends_equivalence": ONE_CLASS,
        "test_save_load_backends": ONE_CLASS,
        "test_pil_can_run_without_torchvision": ONE_CLASS,
        "test_call_numpy_4_channels": "a face detector reads RGB; arrays of 4 channels are taken as RGBA and turned "
        "into it, and do_convert_rgb=False refuses them: tests/test_image_processing.py",
        "test_can_compile_torchvision_backend": "the crops are cut by OpenCV: there is nothing to compile",
        "test_new_models_require_torchvision_backend": "the crops are cut by OpenCV: one resampling from the photo",
        "test_image_processor_preprocess_arguments": "for decorators that MTLDImageProcessor does not use: it refuses "
        "unknown arguments itself, tests/test_image_processing.py",
        "test_post_process_semantic_segmentation": "for segmentation",
    }
)
class MTLDImageProcessingTest(ImageProcessingTestMixin, unittest.TestCase):
    image_processing_classes = {"torchvision": MTLDImageProcessor}  # the tests ask for this name
    test_cast_dtype = True

    def setUp(self):
        self.image_processor_tester = MTLDImageProcessingTester(self)

    @property
    def image_processor_dict(self) -> dict:
        return self.image_processor_tester.prepare_image_processor_dict()

    def test_image_processor_save_load_with_autoimageprocessor(self):
        with mock.patch("builtins.input", return_value="y"):  # trusts the code that came with the checkpoint
            super().test_image_processor_save_load_with_autoimageprocessor()
