"""Videos of visitors: read frame by frame within stated limits, and written as MP4 that browsers play."""

import math
import os
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from fractions import Fraction
from pathlib import Path
from uuid import uuid4

import av
import numpy as np
from av.buffer import Buffer

MAX_SECONDS = 30  # of a video, the rest of which is cut
MAX_FRAMES = 900
MAX_SIDE = 1280  # pixels, longer side of the frames; larger ones are scaled down
MAX_SOURCE_SIDE = 4096  # pixels
MIN_SOURCE_SIDE = 16
MAX_STRETCH = 4  # largest aspect ratio of a pixel, in both directions

FORMATS = "MP4, MOV, WebM, MKV or AVI"
# No playlists (HLS, DASH, concat): they would make FFmpeg open other files and addresses. These formats list their
# streams before any is decoded, so that FFmpeg enforces `max_pixels` from the start.
READ_OPTIONS = {"format_whitelist": "mov,mp4,matroska,webm,avi", "protocol_whitelist": "none"}
DECODE_OPTIONS = {"max_pixels": str(MAX_SOURCE_SIDE**2)}
COPIED_SOUND = ("aac", "mp3")  # what every browser plays in an MP4
ENCODING = {"crf": "20", "preset": "veryfast"}
TICKS = 90000  # in a second, of the time stamps written
USUAL_RATE = Fraction(30)  # frames a second, if the file gives none
RATE_LIMITS = (1, 240)
BT709, UNKNOWN_COLORS = 1, 2  # numbers of ITU-T H.273
MAX_UNFINISHED_SHARE = 0.999  # reported share of a video until its file is complete
HD_HEIGHT = 720  # without colour tags, frames of at least this height are read as BT.709
HDR_TRANSFERS = (16, 18)  # PQ and HLG, numbers of ITU-T H.273
HDR_NOTICE = "This video is HDR; its colours look pale here."
SOUND_NOTICE = "The sound is left out, as it is neither AAC nor MP3."


@dataclass(frozen=True)
class Done:
    """The progress of writing a video.

    Attributes:
        share: written share of the video, from 0 to 1; 1 only when the file is complete.
        frames: number of frames written.
        seconds: time of the last frame.
        width, height: of the frames, in pixels.
        notice: what a visitor should know, or "".
    """

    share: float
    frames: int
    seconds: float
    width: int
    height: int
    notice: str = ""


def annotate_video(
    source: str | os.PathLike, target: str | os.PathLike, annotate: Callable[[np.ndarray, float], np.ndarray]
) -> Iterator[Done]:
    """Writes the video `source`, changed frame by frame, to `target`, an MP4 in H.264.

    Time stamps are kept, also uneven ones. Sound in AAC or MP3 is copied, other sound is left out. The video is cut at
    MAX_SECONDS or MAX_FRAMES. The last `Done` has a notice of such losses. Memory does not grow with length. `target`
    is created only when it is complete: after an error, also of `annotate`, or an early end of the iterator, no file
    is left.

    Args:
        source: the file; its name does not matter.
        target: the file to write, replaced if it is there.
        annotate: takes a frame as `VideoReader` gives it and its time in seconds; returns one of the same shape.

    Yields:
        The progress after each frame, and once more at the end.

    Raises:
        ValueError: with a line for the visitor, if the file is no video, cannot be decoded, or has frames too large or
            too small; if `annotate` returns another shape or type.
        OSError: if `target` cannot be written.
    """
    with open_video(source) as video, _open(source) as again, _replaced(target) as output:
        writer, sound = _Writer(output, video.rate), _Sound(again)
        for frame, seconds in video:
            annotated = annotate(frame, seconds)
            if writer.frames == 0:
                writer.start(frame.shape, sound.stream)
            writer.write(annotated, seconds, sound.packets_until(seconds, video.start))
            height, width = frame.shape[:2]
            yield Done(min(video.share_done, MAX_UNFINISHED_SHARE), writer.frames, seconds, width, height)
        writer.finish()
    notice = " ".join(filter(None, (video.notice, sound.notice)))
    yield Done(1.0, writer.frames, seconds, width, height, notice)


@contextmanager
def open_video(source: str | os.PathLike) -> Iterator["VideoReader"]:
    """The `VideoReader` of a file, which is closed at the end.

    Raises:
        ValueError: with a line for the visitor, if the file is no video or its frames are too large or too small.
    """
    with _open(source) as container:
        yield VideoReader(container)


class VideoReader:
    """An iterator over a video: pairs of a frame (H, W, 3) uint8 RGB and its time in seconds, rising from 0.

    Frames are upright, all of one size with even sides, and at most MAX_SIDE pixels long. Those that cannot be decoded
    are left out. The iterator stops at the limits. It sets `notice` if it does, and for HDR.

    Attributes:
        rate: average number of frames a second.
        start: time stamp of the first frame in the file, in seconds; set when it is read.
        share_done: share of the video that is read, from 0 to 1.
        notice: what a visitor should know, or "".

    Raises:
        ValueError: with a line for the visitor, if no frame can be decoded or one is too large or too small.
    """

    def __init__(self, container: av.container.InputContainer):
        self._stream = _find_picture_stream(container)
        low, high = RATE_LIMITS
        rate = self._stream.average_rate or USUAL_RATE
        self.rate = rate if low <= rate <= high else USUAL_RATE
        self._length = min(MAX_SECONDS, (container.duration or 0) / av.time_base or MAX_SECONDS)
        self.start, self.share_done, self._notices = 0.0, 0.0, []
        self._size = None

    @property
    def notice(self) -> str:
        return " ".join(self._notices)

    def __iter__(self) -> Iterator[tuple[np.ndarray, float]]:
        count = 0
        for frame, seconds in self._with_seconds():
            if seconds >= MAX_SECONDS or count == MAX_FRAMES:
                cut = f"This video was cut: the limit is {MAX_SECONDS} seconds or {MAX_FRAMES} frames."
                self._notices.append(cut)
                break
            if count == 0 and frame.color_trc in HDR_TRANSFERS:
                self._notices.append(HDR_NOTICE)
            count += 1
            self.share_done = min(1.0, max(seconds / self._length, count / MAX_FRAMES))
            yield self._to_rgb(frame), seconds
        if count == 0:
            limit = f"of at most {MAX_SOURCE_SIDE} pixels a side"
            raise ValueError(f"the video must hold pictures that can be decoded, {limit}, but got none")

    def _with_seconds(self) -> Iterator[tuple[av.VideoFrame, float]]:
        """A frame whose time stamp is missing or not after the last one is placed 1 / rate seconds after it."""
        last = None
        for frame in self._decode():
            is_stamped = frame.pts is not None and frame.time_base is not None
            stamp = float(frame.pts * frame.time_base) if is_stamped else None
            if last is None:
                self.start = origin = stamp or 0.0
                last = 0.0
            else:
                seconds = last if stamp is None else stamp - origin
                if seconds <= last:
                    seconds = last + float(1 / self.rate)
                    origin = origin if stamp is None else stamp - seconds
                last = seconds
            yield frame, last

    def _decode(self) -> Iterator[av.VideoFrame]:
        self._stream.thread_type, self._stream.codec_context.options = "AUTO", DECODE_OPTIONS
        packets, packet = self._stream.container.demux(self._stream), True
        while packet is not None:
            packet = _next_packet(packets)
            try:
                frames = self._stream.decode(packet)  # packet None flushes the decoder
            except av.error.FFmpegError:  # damaged data: go on with the next packet
                continue
            yield from (frame for frame in frames if not frame.is_corrupt)

    def _to_rgb(self, frame: av.VideoFrame) -> np.ndarray:
        _check_size(frame.width, frame.height)
        is_mirrored, quarters = _orientation(frame.side_data.get("DISPLAYMATRIX"))
        size = _output_size(frame, self._stream.sample_aspect_ratio)
        if self._size is None:
            self._size = size[::-1] if quarters % 2 else size
        width, height = self._size[::-1] if quarters % 2 else self._size
        is_hd = frame.colorspace == UNKNOWN_COLORS and frame.height >= HD_HEIGHT
        colors = "itu709" if is_hd else None
        rgb = frame.to_ndarray(format="rgb24", width=width, height=height, src_colorspace=colors, interpolation="AREA")
        return np.ascontiguousarray(np.rot90(rgb[:, ::-1] if is_mirrored else rgb, quarters))


class _Writer:
    """Writes frames into an open MP4."""

    def __init__(self, output: av.container.OutputContainer, rate: Fraction):
        self.frames, self._tick = 0, -1
        self._output, self._rate = output, rate

    def start(self, shape: tuple, sound: av.AudioStream | None):
        self._shape = shape
        self._stream = self._output.add_stream("libx264", rate=self._rate, options=ENCODING)
        self._stream.height, self._stream.width = shape[:2]
        self._stream.pix_fmt = "yuv420p"
        context = self._stream.codec_context
        context.time_base = Fraction(1, TICKS)
        context.colorspace = context.color_primaries = context.color_trc = BT709
        context.color_range = av.video.reformatter.ColorRange.MPEG
        self._sound = None if sound is None else self._output.add_stream_from_template(sound)

    def write(self, rgb: np.ndarray, seconds: float, sound: Iterator[av.Packet]):
        if not isinstance(rgb, np.ndarray) or rgb.dtype != np.uint8 or rgb.shape != self._shape:
            found = f"{rgb.dtype} {rgb.shape}" if isinstance(rgb, np.ndarray) else type(rgb).__name__
            raise ValueError(f"annotate must return a uint8 array {self._shape}, but got {found}")
        frame = av.VideoFrame.from_ndarray(np.ascontiguousarray(rgb), format="rgb24")
        frame = frame.reformat(format="yuv420p", dst_colorspace="itu709", dst_color_range="MPEG")
        self._tick = max(round(seconds * TICKS), self._tick + 1)
        frame.pts, frame.time_base = self._tick, Fraction(1, TICKS)
        self._output.mux(self._stream.encode(frame))
        for packet in sound:
            packet.stream = self._sound
            self._output.mux(packet)
        self.frames += 1

    def finish(self):
        self._output.mux(self._stream.encode(None))


class _Sound:
    """The encoded sound of a video; `notice` is set if the file has only sound of other codecs, which is left out."""

    def __init__(self, container: av.container.InputContainer):
        readable = (stream for stream in container.streams.audio if stream.codec_context is not None)
        fitting = (stream for stream in readable if stream.codec.canonical_name in COPIED_SOUND)
        self.stream = next(fitting, None)
        self.notice = SOUND_NOTICE if container.streams.audio and self.stream is None else ""
        self._packets = iter(()) if self.stream is None else container.demux(self.stream)
        self._next, self._last = None, -1

    def packets_until(self, seconds: float, start: float) -> Iterator[av.Packet]:
        """The next packets up to `seconds`; `start` is the time stamp of the first frame in the file."""
        while True:
            packet = self._next or _next_packet(self._packets)
            self._next = packet
            if packet is None or packet.pts is None or packet.dts is None:  # at the end
                return
            shift = round(start / packet.time_base)
            if (packet.pts - shift) * packet.time_base > seconds:
                return
            self._next = None
            packet.pts, packet.dts = packet.pts - shift, packet.dts - shift
            if self._last < packet.dts <= packet.pts:  # others cannot be written
                self._last = packet.dts
                yield packet


@contextmanager
def _open(source: str | os.PathLike) -> Iterator[av.container.InputContainer]:
    with ExitStack() as stack:
        try:
            file = stack.enter_context(open(source, "rb"))  # pass an open file: FFmpeg would interpret its name
            container = stack.enter_context(
                av.open(file, options=READ_OPTIONS | DECODE_OPTIONS, metadata_errors="replace")
            )
        except (av.error.FFmpegError, OSError) as error:
            raise ValueError(f"the file must be a video ({FORMATS}), but got one that cannot be read") from error
        yield container


@contextmanager
def _replaced(target: str | os.PathLike) -> Iterator[av.container.OutputContainer]:
    """Opens an MP4 for writing under a temporary name. It is renamed to `target` if no error occurs."""
    target = Path(target)
    unfinished = target.with_name(f".{target.name}.{uuid4().hex}.tmp")
    try:
        with av.open(str(unfinished), "w", format="mp4", options={"movflags": "faststart"}) as output:
            yield output
        os.replace(unfinished, target)
    finally:
        unfinished.unlink(missing_ok=True)


def _find_picture_stream(container: av.container.InputContainer) -> av.VideoStream:
    covers = av.stream.Disposition.attached_pic | av.stream.Disposition.timed_thumbnails
    readable = [stream for stream in container.streams.video if stream.codec_context is not None]
    streams = [stream for stream in readable if not stream.disposition & covers]
    if not streams:
        raise ValueError("the file must be a video, but got one without pictures that can be read")
    if streams[0].width and streams[0].height:
        _check_size(streams[0].width, streams[0].height)
    return streams[0]


def _check_size(width: int, height: int):
    if not MIN_SOURCE_SIDE <= min(width, height) <= max(width, height) <= MAX_SOURCE_SIDE:
        limits = f"{MIN_SOURCE_SIDE} to {MAX_SOURCE_SIDE} pixels a side"
        raise ValueError(f"the video's pictures must be {limits}, but got {width} x {height}")


def _orientation(matrix: Buffer | None) -> tuple[bool, int]:
    """Whether a frame is to be mirrored left and right, and then by how many quarters to be turned counter-clockwise.

    Args:
        matrix: nine int32, row by row: the display matrix of ISO 14496-12, whose (x, y, 1) @ matrix is the place of a
            pixel on the screen; None of a file that has none. It is taken for the closest of the eight orientations.
    """
    if matrix is None:
        return False, 0
    a, b, _, c, d = np.frombuffer(matrix, dtype=np.int32)[:5].tolist()
    is_mirrored = a * d < b * c
    angle = math.atan2(-b, -a) if is_mirrored else math.atan2(b, a)  # clockwise, as y points down
    return is_mirrored, round(-angle / (math.pi / 2)) % 4


def _output_size(frame: av.VideoFrame, pixel_ratio: Fraction | None) -> tuple[int, int]:
    """Width and height before rotation: with square pixels, even sides, and at most MAX_SIDE."""
    ratio = pixel_ratio if pixel_ratio and 1 / MAX_STRETCH <= pixel_ratio <= MAX_STRETCH else 1
    width, height = float(frame.width * ratio), float(frame.height)
    scale = min(1.0, MAX_SIDE / max(width, height))
    return max(2, round(width * scale / 2) * 2), max(2, round(height * scale / 2) * 2)


def _next_packet(packets: Iterator[av.Packet]) -> av.Packet | None:
    try:
        return next(packets, None)
    except av.error.FFmpegError:  # the file breaks off
        return None
