"""The tab for a webcam: it follows the faces from frame to frame and draws each frame as it arrives."""

import base64
import io
import time

import gradio as gr
import numpy as np
from messages import as_message
from picker import Picker
from PIL import Image
from uploads import read_frame

MAX_SECONDS = 120  # after which a stream ends, so that others can use the webcam tab
FRAME_SECONDS = 0.1  # between frames that the page sends
FRAME_WIDTH = 640  # pixels, requested from the webcam


def build(picker: Picker, checkpoint: gr.Dropdown, queue: dict):
    """Adds the tab's components and events to the page.

    Args:
        checkpoint: the dropdown with the picker's labels.
        queue: `concurrency_limit` and `concurrency_id` of events that use the network.
    """
    tracker_state = gr.State(time_to_live=600)  # the checkpoint's label, whether smoothed, and the tracker
    gr.Markdown(
        "Allow the webcam, then press Record. Frames go to the server that runs this page, which does not keep them."
        f" Faces are followed for {MAX_SECONDS // 60} minutes at most."
    )
    with gr.Row():
        webcam = gr.Image(
            label="Webcam",
            sources=["webcam"],
            streaming=True,
            webcam_options=gr.WebcamOptions(constraints={"video": {"width": FRAME_WIDTH}}),
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
        [webcam, tracker_state, checkpoint, smooth],
        [picture, tracker_state],
        stream_every=FRAME_SECONDS,
        time_limit=MAX_SECONDS,
        show_progress="hidden",
        preprocess=False,
        postprocess=False,
        api_visibility="private",
        **queue,
    )


def _as_value(picture: np.ndarray) -> dict:
    """A picture as an inline JPEG, because Gradio would write a file for each frame."""
    file = io.BytesIO()
    Image.fromarray(picture).save(file, "JPEG", quality=90)
    return {"url": f"data:image/jpeg;base64,{base64.b64encode(file.getvalue()).decode()}"}
