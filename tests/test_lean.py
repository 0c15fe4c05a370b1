"""What a process that finds faces loads and spends beside the network."""

import json
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import torch

from modeling_mtld.image_processing_mtld import MTLDImageProcessor
from modeling_mtld.modeling_mtld import MTLDForFacialLandmarkDetection
from modeling_mtld.pipeline_mtld import FacialLandmarkDetectionPipeline

ROOT = Path(__file__).resolve().parents[1]
CHECKPOINT = ROOT / "space" / "checkpoints" / "mtld-r18"
FACES = 64
SCRIPT = f"""
import sys
import numpy as np
from modeling_mtld.image_processing_mtld import MTLDImageProcessor
from modeling_mtld.modeling_mtld import MTLDForFacialLandmarkDetection
from modeling_mtld.pipeline_mtld import FacialLandmarkDetectionPipeline

checkpoint = {str(CHECKPOINT)!r}
model = MTLDForFacialLandmarkDetection.from_pretrained(checkpoint)
processor = MTLDImageProcessor.from_pretrained(checkpoint)
find = FacialLandmarkDetectionPipeline(model=model, image_processor=processor, device="cpu")
assert find(np.zeros((64, 64, 3), np.uint8), boxes=[[8, 8, 56, 56]])
print(*sys.modules)
"""
# Libraries of training, data and pages, and parts of this code that finding landmarks has no use for.
NOT_NEEDED = {"datasets", "evaluate", "pandas", "pyarrow", "aiohttp", "matplotlib", "skimage", "tensorboard", "rich"}
NOT_NEEDED |= {"gradio", "sklearn", "h5py", "pillow_heif", "training_mtld", "dataset_scripts"}
NOT_NEEDED |= {
    f"modeling_mtld.{name}_mtld" for name in ("hub", "hub_reach", "drawing", "tracking", "face_detection", "yunet")
}


def test_a_process_that_finds_landmarks_loads_nothing_else():
    done = subprocess.run([sys.executable, "-c", SCRIPT], cwd=ROOT, capture_output=True, text=True, check=True)
    modules = done.stdout.split()
    assert "modeling_mtld.pipeline_mtld" in modules
    assert not NOT_NEEDED & set(modules)


def test_the_json_of_64_faces_takes_less_than_a_millisecond_a_face():
    processor = MTLDImageProcessor.from_pretrained(CHECKPOINT)
    model = MTLDForFacialLandmarkDetection.from_pretrained(CHECKPOINT)
    find = FacialLandmarkDetectionPipeline(model=model, image_processor=processor, device="cpu")
    boxes = [[10.0 + shift, 10.0 + shift, 60.0 + shift, 60.0 + shift] for shift in range(FACES)]
    inputs = processor([np.zeros((200, 200, 3), np.uint8)], [boxes], return_tensors="pt")
    with torch.inference_mode():
        outputs = model(**inputs)

    def make_json() -> str:
        (faces,) = processor.post_process_landmark_detection(outputs, inputs)
        return json.dumps(find.postprocess({"faces": faces}))

    assert len(json.loads(make_json())) == FACES
    times = []
    for _ in range(5):
        start = time.process_time()  # of this process, whatever else the machine does
        make_json()
        times.append(time.process_time() - start)
    assert min(times) < 0.001 * FACES
