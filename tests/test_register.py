"""The installed code loads a checkpoint without `trust_remote_code`."""

import subprocess
import sys
from pathlib import Path

from modeling_mtld.detect import CHECKPOINT

SCRIPT = f"""
import sys
import modeling_mtld.register
from modeling_mtld.register import facial_landmark_detection
from skimage.data import astronaut
from transformers import AutoConfig, AutoImageProcessor, AutoModel, AutoModelForKeypointDetection, pipeline

checkpoint = {str(CHECKPOINT)!r}
model, processor = AutoModel.from_pretrained(checkpoint), AutoImageProcessor.from_pretrained(checkpoint)
loaded = [model, processor]
loaded += [one.from_pretrained(checkpoint) for one in (AutoModelForKeypointDetection, AutoConfig)]
assert all(type(one).__module__.startswith("modeling_mtld.") for one in loaded), loaded
detect = facial_landmark_detection(checkpoint, device="cpu")
same = pipeline("facial-landmark-detection", model=model, image_processor=processor, device="cpu")
box = [[179, 87, 272, 179]]
assert detect(astronaut(), boxes=box) == same(astronaut(), boxes=box)
assert not any(name.startswith("transformers_modules") for name in sys.modules)
"""


def test_no_remote_code_is_needed_and_no_question_asked():
    command = [sys.executable, "-c", SCRIPT]
    root = Path(__file__).resolve().parents[1]
    done = subprocess.run(command, cwd=root, stdin=subprocess.DEVNULL, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr[-2000:]
