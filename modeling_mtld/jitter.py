"""`python -m modeling_mtld.jitter`: how still the tracker's filter holds a face at rest, and how late a moving one."""

import argparse
import json
import logging
import sys
from collections.abc import Iterator
from pathlib import Path

import cv2
import numpy as np

from .auto_mtld import write_whole
from .detect import CHECKPOINT, load_photo, load_pipeline
from .drawing_mtld import landmark_points
from .geometry_mtld import crop_matrix, landmark_box, warp_image
from .tracking_mtld import LandmarkTracker

FRAME_SIDE = 640  # pixels
FACE_SIDE = 128  # pixels of the face in the frames
REST_SECONDS = 1.0  # before jitter is measured, and before a motion begins
MOTION = 1.5  # seconds
START = 0.3  # seconds of a motion that are its start
PANS = (0.1, 0.3, 1.0, 2.0)  # face sizes a second
SWAYS = (0.5, 1.0)  # times a second, half a face size to either side
DIRECTION = np.array([0.94, 0.34])  # of all motions, so that both coordinates change
LAGS = np.arange(-2, 10, 0.02)  # frames
NEVER = 1e9  # seconds until faces are searched for again


def jitter(tracks: np.ndarray, size: float) -> dict[str, float]:
    """Jitter of a face at rest, in percent of the face's size.

    Args:
        tracks: (T, K, 2), the landmarks in each frame.
        size: of the face, in the same unit.

    Returns:
        `motion`: root mean square, over landmarks and coordinates, of the step from frame to frame; `spread`: the same
        of the distance from the mean over frames.
    """
    shares = 100 * np.asarray(tracks) / size
    return {"motion": np.sqrt((np.diff(shares, axis=0) ** 2).mean()), "spread": np.sqrt(shares.var(axis=0).mean())}


def lag(tracks: np.ndarray, path: np.ndarray, frames: slice) -> float | None:
    """Frames by which landmarks are late: the shift of the true path that brings it closest to their mean.

    Args:
        tracks: (T, K, 2), in pixels, of a face that rests at first.
        path: (T, 2), the true motion in pixels, from the place of rest.
        frames: those to compare.

    Returns:
        Frames, or None where they are beyond the LAGS that are tried.
    """
    resting = np.abs(path - path[0]).max(axis=1) < 1e-9
    centers = tracks.mean(axis=1)
    centers = centers - centers[: resting.argmin()][-10:].mean(axis=0) + path[0]
    times = np.arange(len(path))
    shifted = [np.stack([np.interp(times - late, times, axis) for axis in path.T], axis=1) for late in LAGS]
    errors = [((centers - other)[frames] ** 2).sum() for other in shifted]
    best = np.argmin(errors)
    return float(LAGS[best]) if 0 < best < len(LAGS) - 1 else None


def make_paths(fps: float) -> dict[str, np.ndarray]:
    """Motions (T, 2) in face sizes by name, each after a rest."""
    times = np.arange(round((REST_SECONDS + MOTION) * fps)) / fps - REST_SECONDS
    moving = np.maximum(times, 0)
    paths = {f"pan, {speed:g} faces/s": speed * (moving - MOTION / 2) for speed in PANS}
    paths |= {f"sway, {rate:g} Hz": np.sin(2 * np.pi * rate * moving) / 2 for rate in SWAYS}
    return {name: path[:, None] * DIRECTION for name, path in paths.items()}


def measure(pipeline, photo: np.ndarray, box: np.ndarray, fps: float, noise: float, seconds: float) -> dict:
    """Jitter and lag with the filter on and off, for a face of a photo at rest and in motion, in new noise each frame.

    Args:
        photo: (H, W, 3) uint8.
        box: (4,) tight around the face's landmarks.
        fps: frames a second.
        noise: standard deviation of the grey levels added to each frame.
        seconds: at rest, the first of which does not count.

    Returns:
        `still`: {"off", "on": see `jitter`, "ratio": off over on}; `moving`: by motion {"off", "on": frames of lag,
        "start": frames of lag in the first 0.3 s with the filter on}, None for a lag beyond LAGS.

    Raises:
        ValueError: if the face is lost.
    """
    still = np.zeros((round(seconds * fps), 2))
    tracks = {on: _track(pipeline, photo, box, still, fps, noise, on) for on in (False, True)}
    off, on = (jitter(tracks[smooth][round(REST_SECONDS * fps) :], FACE_SIDE) for smooth in (False, True))
    moving = {}
    for name, path in make_paths(fps).items():
        tracks = {on: _track(pipeline, photo, box, path * FACE_SIDE, fps, noise, on) for on in (False, True)}
        first = round(REST_SECONDS * fps)
        parts = {"off": (False, None), "on": (True, None), "start": (True, first + max(3, round(START * fps)))}
        moving[name] = {
            part: lag(tracks[smooth], path * FACE_SIDE, slice(first, end)) for part, (smooth, end) in parts.items()
        }
    return {"still": {"off": off, "on": on, "ratio": {key: off[key] / on[key] for key in off}}, "moving": moving}


def _track(pipeline, photo, box, path, fps, noise, smooth) -> np.ndarray:
    """Landmarks (T, K, 2) of the face in each frame."""
    track = LandmarkTracker(pipeline, smooth=smooth, max_faces=1, detect_every=NEVER)
    tracks = []
    for index, frame in enumerate(_make_frames(photo, box, path, noise)):
        faces = track(frame, index / fps)
        if not faces:
            raise ValueError(f"the photo's face must be found in every frame, but it was lost in frame {index}")
        tracks.append(landmark_points(faces[0]))
    return np.array(tracks)


def _make_frames(photo, box, path, noise) -> Iterator[np.ndarray]:
    """Frames of the face, moved along `path` (T, 2) in pixels from the middle; beyond the photo its edge goes on."""
    margin = int(np.ceil(max(box[2:] - box[:2]) * FRAME_SIDE / FACE_SIDE))
    photo = cv2.copyMakeBorder(photo, margin, margin, margin, margin, cv2.BORDER_REPLICATE)
    matrix = crop_matrix(box + margin, FRAME_SIDE, FRAME_SIDE / FACE_SIDE)
    random = np.random.default_rng(0)
    for offset in path:
        frame = warp_image(photo, np.column_stack([matrix[:, :2], matrix[:, 2] + offset]), FRAME_SIDE)
        noisy = frame + random.normal(0, noise, frame.shape)
        yield noisy.round().clip(0, 255).astype(np.uint8)


class Parser(argparse.ArgumentParser):
    def error(self, message):
        self.exit(2, f"jitter: {message}\n")


def parse_arguments(argv: list[str] | None) -> argparse.Namespace:
    parser = Parser(
        prog="python -m modeling_mtld.jitter",
        description="Measures the tracker's filter on a photo's face, with new noise in every frame: jitter at rest,"
        " and frames of lag in motion.",
    )
    parser.add_argument("--image", help="path or URL; without it, scikit-image's photo of an astronaut")
    parser.add_argument(
        "--model", default=str(CHECKPOINT), metavar="DIR_OR_ID", help="checkpoint (default: %(default)s)"
    )
    parser.add_argument("--fps", type=float, default=30, help="frames a second, 5 to 120 (default: %(default)s)")
    parser.add_argument(
        "--noise", type=float, default=8, help="standard deviation in grey levels, 1 to 64 (default: %(default)s)"
    )
    parser.add_argument("--seconds", type=float, default=4, help="at rest, 2 to 60 (default: %(default)s)")
    parser.add_argument("--device", help="cpu, cuda, cuda:1, mps, …; by default an accelerator where there is one")
    parser.add_argument("--json", type=Path, metavar="FILE", help="write all of it there")
    arguments = parser.parse_args(argv)
    for name, low, high in (("fps", 5, 120), ("noise", 1, 64), ("seconds", 2, 60)):
        if not low <= getattr(arguments, name) <= high:
            parser.error(f"--{name} must be from {low} to {high}, but got {getattr(arguments, name)}")
    return arguments


def main(argv: list[str] | None = None) -> int:
    """Runs the command. Returns the exit status: 0, or 2 after one line on stderr where it cannot be done."""
    arguments = parse_arguments(argv)
    try:
        _report(arguments)
    except (ValueError, OSError) as error:
        print(f"jitter: {' '.join(str(error).split())}", file=sys.stderr)
        return 2
    return 0


def _report(arguments: argparse.Namespace):
    if arguments.json and not arguments.json.absolute().parent.is_dir():
        raise ValueError(f"--json must be a file in an existing folder, but got {arguments.json}")
    name, photo = load_photo(arguments.image)
    pipeline = load_pipeline(arguments.model, arguments.device)
    faces = pipeline(photo)
    if not faces:
        raise ValueError(f"--image must be a photo with a face, but none was found in {name}")
    box = landmark_box(landmark_points(faces[0]))
    measured = measure(pipeline, photo, box, arguments.fps, arguments.noise, arguments.seconds)
    print(f"{name}, {arguments.fps:g} frames a second, noise of {arguments.noise:g} grey levels")
    print(_as_table(measured))
    if arguments.json:
        settings = {"image": name, "fps": arguments.fps, "noise": arguments.noise, "seconds": arguments.seconds}
        write_whole(arguments.json, (json.dumps({**settings, **measured}, indent=2) + "\n").encode())


def _as_table(measured: dict) -> str:
    off, on, ratio = (measured["still"][key] for key in ("off", "on", "ratio"))
    lines = [f"{'at rest: jitter, % of the face':32}{'off':>8}{'on':>8}{'off/on':>8}"]
    for key, title in (("motion", "from frame to frame"), ("spread", "around the mean")):
        lines.append(f"  {title:30}{off[key]:8.3f}{on[key]:8.3f}{ratio[key]:8.1f}")
    lines.append(f"{'in motion: lag, frames':32}{'off':>8}{'on':>8}{'start':>8}")
    for name, lags in measured["moving"].items():
        cells = ["beyond" if lags[key] is None else f"{lags[key]:.2f}" for key in ("off", "on", "start")]
        lines.append(f"  {name:30}" + "".join(f"{cell:>8}" for cell in cells))
    return "\n".join(lines)


if __name__ == "__main__":
    logging.basicConfig(format="%(message)s", level=logging.WARNING)
    sys.exit(main())
