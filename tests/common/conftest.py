"""Makes transformers' own common tests importable as `transformers_tests`; see sources.py.

What they import beside themselves lies in folders that the source distribution does not carry, hence the stand-ins.
"""

import re
import sys
from pathlib import Path
from types import ModuleType

import pytest
from sources import SOURCES
from transformers import testing_utils

# What every configuration takes, each with another value than its default.
CONFIG_KWARGS = {
    "return_dict": False,
    "output_hidden_states": True,
    "dtype": "float16",
    "chunk_size_feed_forward": 5,
    "architectures": ["MTLDForFacialLandmarkDetection"],
    "id2label": {0: "label"},
    "label2id": {"label": 0},
    "problem_type": "regression",
}


def stand_in(name: str, path=(), **content):
    module = ModuleType(name)
    module.__path__ = [str(folder) for folder in path]
    vars(module).update(content)
    sys.modules[name] = module


def pytest_configure(config):
    if not SOURCES.is_dir():
        raise pytest.UsageError(f"{SOURCES} must hold transformers' own tests: run `make test-common`")
    for file in [Path(testing_utils.__file__), *SOURCES.glob("test_*.py")]:
        for marker in re.findall(r"\bmark\.(\w+)", file.read_text(encoding="utf-8")):
            config.addinivalue_line("markers", f"{marker}: of transformers")


stand_in("fetch_hub_objects_for_ci", url_to_local_path=lambda url: url)
stand_in("transformers_tests", path=[SOURCES])
stand_in("transformers_tests.utils")
stand_in("transformers_tests.utils.test_configuration_utils", config_common_kwargs=CONFIG_KWARGS)
stand_in("transformers_tests.generation")
stand_in("transformers_tests.generation.test_utils", GenerationTesterMixin=type("GenerationTesterMixin", (), {}))
stand_in("transformers_tests.exporters")
stand_in("transformers_tests.exporters.test_export", ExportTesterMixin=type("ExportTesterMixin", (), {}))
