"""Keeps the tests off the network and out of the user's cache. Set before any Hugging Face library is imported."""

import atexit
import os
import shutil
import tempfile

_home = tempfile.mkdtemp(prefix="mtld-tests-")
atexit.register(shutil.rmtree, _home, ignore_errors=True)
os.environ["HF_HOME"] = _home
os.environ["HF_HUB_OFFLINE"] = "1"
for name in ("HF_HUB_CACHE", "HF_MODULES_CACHE", "HF_DATASETS_CACHE", "HF_EVALUATE_CACHE", "HF_METRICS_CACHE"):
    os.environ.pop(name, None)  # each of them would win over HF_HOME
