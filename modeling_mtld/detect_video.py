"""A video whose faces are followed: written again with their landmarks, and the landmarks of each frame."""

from pathlib import Path

from tqdm.auto import tqdm

from .detect import write_file

DEFAULT_FPS = 25.0  # of a video that does not state it
CODEC = "mp4v"  # the one that OpenCV's wheels can write


def follow_video(path: str, pipeline, target: Path, options: dict) -> dict:
    """Follows the faces of a video and writes it with their landmarks as MP4, without sound.

    Args:
        path: of the video.
        options: of `draw_faces`.

    Returns:
        `fps`, and `frames`: for each frame its `seconds` and the `faces` of `LandmarkTracker`.

    Raises:
        ValueError: if the video cannot be read or the result cannot be written.
    """
    import cv2

    capture = cv2.VideoCapture(path)
    try:
        fps = capture.get(cv2.CAP_PROP_FPS)
        fps = fps if 1 <= fps <= 1000 else DEFAULT_FPS
        frames: list[dict] = []
        write_file(target, lambda file: _write_frames(path, capture, fps, pipeline, file, options, frames))
    finally:
        capture.release()
    return {"fps": fps, "frames": frames}


def _write_frames(path: str, capture, fps: float, pipeline, file: Path, options: dict, frames: list[dict]):
    import cv2

    from .drawing_mtld import draw_faces

    track, writer = pipeline.tracker(), None
    count = max(0, int(capture.get(cv2.CAP_PROP_FRAME_COUNT))) or None
    try:
        for frame in tqdm(_read(capture), total=count, desc="frames"):
            seconds = len(frames) / fps
            faces = track(frame, seconds)
            frames.append({"seconds": seconds, "faces": faces})
            if writer is None:
                size = (frame.shape[1], frame.shape[0])
                writer = cv2.VideoWriter(str(file), cv2.VideoWriter_fourcc(*CODEC), fps, size)
            writer.write(cv2.cvtColor(draw_faces(frame, faces, scale=1, **options), cv2.COLOR_RGB2BGR))
    finally:
        if writer is not None:
            writer.release()
    if writer is None or not file.is_file():
        raise ValueError(f"{path} must be a video that OpenCV can read, but it has no frames")


def _read(capture):
    import cv2

    while True:
        is_read, frame = capture.read()
        if not is_read:
            return
        yield cv2.cvtColor(frame, cv2.COLOR_BGR2RGB)
