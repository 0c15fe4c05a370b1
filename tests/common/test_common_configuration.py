"""transformers' ConfigTester on MTLDConfig."""

import unittest

from transformers_tests.test_configuration_common import ConfigTester

from modeling_mtld.auto_mtld import AUTO_MAP, CUSTOM_PIPELINES
from modeling_mtld.configuration_mtld import MTLDConfig

PROPERTIES = ["hidden_size", "num_attention_heads", "num_hidden_layers"]
# What save_pretrained writes whatever the configuration holds, so that what is loaded holds it too.
WRITTEN = {"auto_map": AUTO_MAP, "custom_pipelines": CUSTOM_PIPELINES, "dtype": "float32"}


class PlainConfig(MTLDConfig):
    """ConfigTester does not look at the common arguments of a configuration that holds another."""

    sub_configs = {}


class MTLDConfigTest(unittest.TestCase):
    def setUp(self):
        self.tester = self.new_tester(MTLDConfig)

    def new_tester(self, config_class: type) -> ConfigTester:
        return ConfigTester(
            self,
            config_class=config_class,
            has_text_modality=False,
            common_properties=list(PROPERTIES),
            backbone="test_efficientnet",
            hidden_size=16,
            **WRITTEN,
        )

    def test_config(self):
        self.tester.run_common_tests()

    def test_common_arguments(self):
        self.new_tester(PlainConfig).check_config_arguments_init()
