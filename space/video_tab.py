"""The tab for videos: faces followed through a file, and drawn on it."""

import time
from collections.abc import Iterator
from pathlib import Path

import gradio as gr
from messages import as_message
from picker import Picker
from uploads import EXAMPLES, discard, new_file, uploaded_file
from video import MAX_FRAMES, MAX_SECONDS, MAX_SIDE, annotate_video

PROGRESS = gr.Progress()
REPORT_EVERY = 1.0  # seconds between reports of how far it is, after each of which it can be stopped


def build(picker: Picker, checkpoint: gr.Dropdown, queue: dict):
    """Adds the tab's components and events to the page.

    Args:
        checkpoint: the page's choice among the picker's.
        queue: `concurrency_limit` and `concurrency_id` of events that use the network.
    """
    gr.Markdown(
        f"Of a video, the first {MAX_SECONDS} seconds or {MAX_FRAMES} frames are taken, at {MAX_SIDE} pixels at most."
    )
    with gr.Row():
        with gr.Column(min_width=320):
            video = gr.Video(label="Video", sources=["upload", "webcam"], height=400, buttons=[])
            gr.Examples(sorted(map(str, EXAMPLES.glob("*.mp4"))), video, label="Examples", api_visibility="private")
            smooth = gr.Checkbox(True, label="One-Euro filter against jitter")
            with gr.Row():
                start = gr.Button("Follow the faces", variant="primary")
                stop = gr.Button("Stop", variant="stop")
        with gr.Column(min_width=320):
            result = gr.Video(
                label="Landmarks",
                interactive=False,
                height=400,
                autoplay=True,
                buttons=["download"],
                elem_id="followed",
            )
            status = gr.Markdown("Upload or record a video, or pick the example.", elem_id="video_status")

    @as_message
    def follow(payload, label, is_smooth, progress=PROGRESS):
        if payload is None:
            raise ValueError("Choose a video first.")
        yield None, "Reading the video."
        for share, text, path in follow_video(picker.load(label), uploaded_file(payload, "video"), is_smooth):
            progress(share, desc=text)
            yield path, text

    running = start.click(
        follow, [video, checkpoint, smooth], [result, status], preprocess=False, api_visibility="private", **queue
    )
    stop.click(lambda: "Stopped.", None, status, cancels=running, api_visibility="private")


def follow_video(find, file: Path, smooth: bool) -> Iterator[tuple[float, str, str | None]]:
    """Writes a video with its faces followed and drawn, and tells how far it is.

    A file that is no video is removed within seconds, and what was written at once if it is stopped.

    Args:
        find: the pipeline.
        file: the upload.
        smooth: whether to filter the landmarks against jitter.

    Yields:
        The share that is done, in [0, 1], a line for the visitor, and at last the path of the MP4.

    Raises:
        ValueError: if the file is no video, or one beyond the limits of `video.py`.
    """
    track, in_frame = find.tracker(smooth=smooth), 0
    target = new_file("landmarks.mp4")

    def annotate(frame, seconds):
        nonlocal in_frame
        faces = track(frame, seconds)
        in_frame = len(faces)
        return find.draw(frame, faces, scale=1, by_confidence=True)

    began = reported = time.monotonic()
    try:
        for done in annotate_video(file, target, annotate):
            if time.monotonic() - reported >= REPORT_EVERY:
                reported = time.monotonic()
                yield done.share, f"{done.frames} frames so far, {_count(in_frame)} in the last.", None
    except ValueError as error:
        discard(file)
        raise ValueError(f"This file cannot be followed: {error}") from error
    finally:
        if not target.exists():
            target.parent.rmdir()
    rate = done.frames / (time.monotonic() - began)
    text = f"{done.frames} frames, {done.seconds:.1f} s, worked on at {rate:.0f} frames a second. {done.notice}"
    yield 1.0, text.strip(), str(target)


def _count(faces: int) -> str:
    return "1 face" if faces == 1 else f"{faces} faces"
