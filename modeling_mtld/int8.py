"""8-bit integers for the trunk of an exported ONNX network, by static quantisation after the training.

The decoder and the heads stay in float32: they are a small part of the time, and landmarks need their precision.
"""

from collections.abc import Sequence
from pathlib import Path

import numpy as np

from .pipeline_mtld import FacialLandmarkDetectionPipeline

MIN_FACES, MAX_FACES = 20, 256  # for the calibration
BATCH = 8
QUANTIZED = ("Conv", "Add", "Relu", "MaxPool")
SCOPES = "pkg.torch.onnx.name_scopes"  # metadata of a node: the modules of the network that it is in
PHOTOS = (".jpg", ".jpeg", ".png", ".webp", ".bmp")


def calibration_crops(pipeline: FacialLandmarkDetectionPipeline, folder: Path) -> np.ndarray:
    """Crops of the faces in a folder of photos, as the network gets them: (N, size, size, 3) uint8.

    Raises:
        ValueError: if there are fewer than `MIN_FACES`.
    """
    files = sorted(file for file in folder.rglob("*") if file.suffix.lower() in PHOTOS) if folder.is_dir() else []
    files = [files[place] for place in np.random.default_rng(0).permutation(len(files))]
    crops = []
    for file in files:
        if len(crops) >= MAX_FACES:
            break
        photo = pipeline.read(str(file))
        crops += [crop_around(pipeline, photo, list(face["box"].values())) for face in pipeline(photo)]
    if len(crops) < MIN_FACES:
        raise ValueError(
            f"--int8 must be a folder with at least {MIN_FACES} faces, but {folder} has {len(files)} photos "
            f"with {len(crops)} faces"
        )
    return np.stack(crops[:MAX_FACES])


def crop_around(pipeline: FacialLandmarkDetectionPipeline, photo: np.ndarray, landmark_box) -> np.ndarray:
    """The crop (size, size, 3) uint8 of the face with this landmark box (x0, y0, x1, y1) in pixels of the photo."""
    from .geometry_mtld import crop_matrix, warp_image

    processor = pipeline.image_processor
    size = processor.size["height"]
    return warp_image(photo, crop_matrix(pipeline.box_around(landmark_box), size, processor.box_enlargement), size)


def quantize(file: Path, crops: np.ndarray):
    """Replaces an ONNX file of `export` by one whose trunk computes in 8-bit integers.

    Weights have 7 bits, as 8 overflow in the instructions of processors without VNNI.

    Args:
        crops: (N, size, size, 3) uint8, typical faces; their activations set the ranges.
    """
    import onnx
    from onnxruntime.quantization import QuantFormat, QuantType, quantize_static

    model = onnx.load(file)
    quantize_static(
        model,
        file,
        _Crops(crops),
        quant_format=QuantFormat.QDQ,
        per_channel=True,
        reduce_range=True,
        activation_type=QuantType.QUInt8,
        weight_type=QuantType.QInt8,
        nodes_to_quantize=[node.name for node in model.graph.node if _is_quantized(node)],
    )


def _is_quantized(node) -> bool:
    scopes = next((entry.value for entry in node.metadata_props if entry.key == SCOPES), "")
    return node.op_type in QUANTIZED and "'model.backbone'" in scopes


class _Crops:
    """A `CalibrationDataReader` of ONNX Runtime."""

    def __init__(self, crops: Sequence[np.ndarray]):
        self._batches = iter([crops[start : start + BATCH] for start in range(0, len(crops), BATCH)])

    def get_next(self) -> dict | None:
        batch = next(self._batches, None)
        return None if batch is None else {"crops": batch}


def nme_of(pipeline: FacialLandmarkDetectionPipeline, run, dataset: str, data_dir: str, split: str) -> float:
    """The NME of an exported network on a split, under the benchmark's first normaliser, a fraction.

    Args:
        run: from crops (N, size, size, 3) uint8 to landmarks (N, K, 2), fractions of the crop.

    Raises:
        ValueError: if there is no such data, or its landmarks are others.
    """
    from dataset_scripts import find_benchmark, load_faces

    from .geometry_mtld import crop_matrix, pixels_to_fractions, transform_points, warp_image

    benchmark, processor = find_benchmark(dataset), pipeline.image_processor
    size, errors = processor.size["height"], []
    for face in load_faces(benchmark, data_dir, split):
        box = benchmark.box_to_crop(face)
        matrix = crop_matrix(box, size, processor.box_enlargement)
        labels, corners = (
            pixels_to_fractions(transform_points(matrix, np.asarray(points, dtype=np.float64)), size)
            for points in (face["landmarks"], box.reshape(2, 2))
        )
        landmarks = run(warp_image(np.asarray(face["image"].convert("RGB")), matrix, size)[None])[0]
        if landmarks.shape != labels.shape:
            raise ValueError(f"--score must be of data with {len(landmarks)} landmarks, but got {len(labels)}")
        distances = np.linalg.norm(landmarks - labels, axis=1)
        errors.append(np.nanmean(distances) / benchmark.normalizers(labels[None], None, corners.reshape(1, 4))[0])
    return float(np.mean(errors))
