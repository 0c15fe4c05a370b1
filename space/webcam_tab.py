"""The tab for a webcam: each frame drawn as it comes, the faces followed from frame to frame."""

import base64
import io
import time

import gradio as gr
import numpy as np
from messages import as_message
from picker import Picker
from PIL import Image
from uploads import read_frame

SECONDS = 120  # after which a stream ends, so that others have their turn
EVERY = 0.1  # seconds between frames that are sent
FRAME_SIDE = 640  # pixels, asked of the webcam


def build(picker: Picker, checkpoint: gr.Dropdown, queue: dict):
    """Adds the tab's components and events to the page.

    Args:
        checkpoint: the page's choice among the picker's.
        queue: `concurrency_limit` and `concurrency_id` of events that use the network.
    """
    followed = gr.State(time_to_live=600)  # the checkpoint's label, whether smoothed, and the tracker
    gr.Markdown(
        "Allow the webcam, then press Record. Frames go to the server that runs this page, which does not keep them."
        f" Faces are followed for {SECONDS // 60} minutes at most."
    )
    with gr.Row():
        webcam = gr.Image(
            label="Webcam",
            sources=["webcam"],
            streaming=True,
            webcam_options=gr.WebcamOptions(constraints={"video": {"width": FRAME_SIDE}}),
        )
        picture = gr.Image(
            label="Landmarks", interactive=False, streaming=True, buttons=["fullscreen"], elem_id="stream"
        )
    smooth = gr.Checkbox(True, label="One-Euro filter against jitter")

    @as_message
    def follow(payload, state, label, is_smooth):
        pipe = picker.load(label)
        frame = read_frame(payload, pipe)
        if frame is None:
            return None, state
        if state is None or state[:2] != (label, is_smooth):
            state = (label, is_smooth, pipe.tracker(smooth=is_smooth))
        faces = state[2](frame, time.monotonic())
        return _as_value(pipe.draw(frame, faces, scale=1, by_confidence=True)), state

    webcam.stream(
        follow,
        [webcam, followed, checkpoint, smooth],
        [picture, followed],
        stream_every=EVERY,
        time_limit=SECONDS,
        show_progress="hidden",
        preprocess=False,
        postprocess=False,
        api_visibility="private",
        **queue,
    )


def _as_value(picture: np.ndarray) -> dict:
    """A picture as the page takes it, inline: Gradio would leave a file of each frame."""
    file = io.BytesIO()
    Image.fromarray(picture).save(file, "JPEG", quality=90)
    return {"url": f"data:image/jpeg;base64,{base64.b64encode(file.getvalue()).decode()}"}
