"""The tab for videos: it follows the faces of a file and draws their landmarks on it."""

import time
from collections.abc import Iterator
from pathlib import Path

import gradio as gr
from messages import as_message
from picker import Picker
from uploads import EXAMPLES, discard, new_file, uploaded_file
from video import MAX_FRAMES, MAX_SECONDS, MAX_SIDE, annotate_video

PROGRESS = gr.Progress()
REPORT_SECONDS = 1.0  # between progress reports; Stop takes effect at a report


def build(picker: Picker, checkpoint: gr.Dropdown, queue: dict):
    """Adds the tab's components and events to the page.

    Args:
        checkpoint: the dropdown with the picker's labels.
        queue: `concurrency_limit` and `concurrency_id` of events that use the network.
    """
    gr.Markdown(
        f"Videos are cut after {MAX_SECONDS} seconds or {MAX_FRAMES} frames, and scaled to at most {MAX_SIDE} pixels."
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

    follow_event = start.click(
        follow, [video, checkpoint, smooth], [result, status], preprocess=False, api_visibility="private", **queue
    )
    stop.click(lambda: "Stopped.", None, status, cancels=follow_event, api_visibility="private")


def follow_video(pipe, file: Path, smooth: bool) -> Iterator[tuple[float, str, str | None]]:
    """Follows the faces of a video, draws them on it, and reports the progress.

    A file that is no video is removed within seconds. If the iterator is closed early, the output is removed at once.

    Args:
        pipe: the pipeline.
        file: the upload.
        smooth: whether to filter the landmarks against jitter.

    Yields:
        The finished share in [0, 1], a line for the visitor, and the path of the MP4, None before the end.

    Raises:
        ValueError: if the file is no video, or exceeds the limits of `video.py`.
    """
    track, num_faces = pipe.tracker(smooth=smooth), 0
    target = new_file("landmarks.mp4")

    def annotate(frame, seconds):
        nonlocal num_faces
        faces = track(frame, seconds)
        num_faces = len(faces)
        return pipe.draw(frame, faces, scale=1, by_confidence=True)

    start_time = report_time = time.monotonic()
    try:
        for progress in annotate_video(file, target, annotate):
            if time.monotonic() - report_time >= REPORT_SECONDS:
                report_time = time.monotonic()
                yield progress.share, f"{progress.frames} frames so far, {_count(num_faces)} in the last.", None
    except ValueError as error:
        discard(file)
        raise ValueError(f"This video cannot be processed: {error}") from error
    finally:
        if not target.exists():
            target.parent.rmdir()
    rate = progress.frames / (time.monotonic() - start_time)
    text = f"{progress.frames} frames, {progress.seconds:.1f} s, processed at {rate:.0f} frames a second."
    yield 1.0, f"{text} {progress.notice}".strip(), str(target)


def _count(num_faces: int) -> str:
    return "1 face" if num_faces == 1 else f"{num_faces} faces"
