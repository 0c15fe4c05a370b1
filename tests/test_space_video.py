import os
import struct
import subprocess
import sys
from fractions import Fraction
from pathlib import Path

import av
import numpy as np
import pytest
from PIL import Image

from modeling_mtld.photo_mtld import TURNS

sys.path.insert(0, str(Path(__file__).resolve().parents[1] / "space"))
import video
from video import annotate_video, open_video

SOUND_RATE = 48000
NO_VIDEO = "the file must be a video"
OPEN_AND_TELL_MEMORY = """
import resource, sys, video

def peak():
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss

before = peak()
try:
    for done in video.annotate_video(*sys.argv[2:], lambda frame, seconds: frame):
        if done.frames == int(sys.argv[1]):
            before = peak()
except ValueError as error:
    print(error)
print(peak() - before)
"""


def picture(index, width=64, height=48):
    """A frame whose number can be read from its brightness; its left top corner is red."""
    frame = np.full((height, width, 3), 40 + index % 32 * 6, dtype=np.uint8)
    frame[: height // 3, : width // 3] = (220, 20, 20)
    return frame


def write(
    path, times, size=(64, 48), codec="libx264", rotation=None, sound=None, pixels="yuv420p", ratio=None, transfer=None
):
    """A toy video whose frames have these times in seconds."""
    with av.open(str(path), "w") as output:
        stream = output.add_stream(codec, rate=30, options={"crf": "12", "g": "12"} if codec == "libx264" else {})
        stream.width, stream.height, stream.pix_fmt = *size, pixels
        stream.codec_context.time_base = Fraction(1, 1000)
        if rotation is not None:
            stream.set_display_rotation(rotation)
        if ratio is not None:
            stream.sample_aspect_ratio = ratio
        if transfer is not None:
            stream.codec_context.color_trc = transfer
        heard = output.add_stream(sound, rate=SOUND_RATE, layout="mono") if sound else None
        for index, seconds in enumerate(times):
            frame = av.VideoFrame.from_ndarray(picture(index, *size), format="rgb24")
            frame.pts, frame.time_base = round(seconds * 1000), Fraction(1, 1000)
            output.mux(stream.encode(frame))
        output.mux(stream.encode(None))
        if sound:
            _write_sound(output, heard, times[-1])
    return path


def _write_sound(output, stream, seconds):
    silence = {"s16": np.int16, "s32p": np.int32, "fltp": np.float32}[stream.format.name]
    size = stream.codec_context.frame_size or 1024
    for index in range(int(seconds * SOUND_RATE / size)):
        frame = av.AudioFrame.from_ndarray(np.zeros((1, size), silence), format=stream.format.name, layout="mono")
        frame.sample_rate, frame.pts = SOUND_RATE, index * size
        output.mux(stream.encode(frame))
    output.mux(stream.encode(None))


def even(count, fps=30):
    return [index / fps for index in range(count)]


def read(path):
    with open_video(path) as frames:
        return list(frames)


def copy(source, target, annotate=lambda frame, seconds: frame):
    return list(annotate_video(source, target, annotate))[-1]


def annotate_and_tell_memory(source, target, after=-1):
    """What a process of its own prints, at last the KB by which its peak rises after that many frames.

    The peak of the tests' own process may lie far above what it needs now, so that it would not rise.
    """
    command = [sys.executable, "-c", OPEN_AND_TELL_MEMORY, str(after), source, target]
    return subprocess.run(command, cwd=Path(video.__file__).parent, capture_output=True, text=True, check=True).stdout


def numbers(frames):
    return [round((float(frame[-8:, -8:].mean()) - 40) / 6) for frame in frames]


def brightness_is_close(first, second):
    return np.abs(first.astype(int) - second).mean() < 4


def test_frames_come_with_their_times_and_colours(tmp_path):
    frames, times = zip(*read(write(tmp_path / "a.mp4", even(12))))
    assert times == pytest.approx(even(12), abs=1e-3)
    assert numbers(frames) == list(range(12))
    assert frames[0].dtype == np.uint8 and brightness_is_close(frames[0], picture(0))


def test_what_is_written_is_what_browsers_play(tmp_path):
    source, target = write(tmp_path / "a.mp4", even(12)), tmp_path / "b.mp4"
    done = copy(source, target, lambda frame, seconds: 255 - frame)
    assert (done.share, done.frames, done.width, done.height, done.notice) == (1.0, 12, 64, 48, "")
    with av.open(str(target)) as written:
        stream = written.streams.video[0]
        assert (stream.codec.canonical_name, stream.pix_fmt, stream.width, stream.height) == (
            "h264",
            "yuv420p",
            64,
            48,
        )
    content = target.read_bytes()
    assert content.index(b"moov") < content.index(b"mdat")
    assert brightness_is_close(read(target)[3][0], 255 - picture(3))
    assert sorted(os.listdir(tmp_path)) == ["a.mp4", "b.mp4"]


def test_uneven_times_stay(tmp_path):
    times = [0, 0.033, 0.15, 0.2, 0.7, 0.71, 1.5]
    target = tmp_path / "b.mp4"
    assert copy(write(tmp_path / "a.mp4", times), target).seconds == pytest.approx(1.5)
    assert [seconds for _, seconds in read(target)] == pytest.approx(times, abs=1e-3)


def test_frames_closer_than_can_be_written_all_stay(tmp_path):
    with open_video(write(tmp_path / "a.mp4", even(5))) as frames, av.open(str(tmp_path / "b.mp4"), "w") as output:
        writer = video._Writer(output, frames.rate)
        writer.start((48, 64, 3), None)
        for frame, seconds in frames:
            writer.write(frame, seconds / 1e6, iter(()))
        writer.finish()
    assert len(read(tmp_path / "b.mp4")) == 5


def test_times_start_at_zero_and_rise(tmp_path):
    later = [5 + seconds for seconds in even(6)]
    times = [seconds for _, seconds in read(write(tmp_path / "a.mkv", later))]
    assert times == pytest.approx(even(6), abs=2e-3)


@pytest.mark.parametrize("rotation, corner", [(90, "bottom left"), (180, "bottom right"), (-90, "top right")])
def test_what_a_phone_turned_comes_out_upright(tmp_path, rotation, corner):
    target = tmp_path / "b.mp4"
    done = copy(write(tmp_path / "a.mp4", even(3), rotation=rotation), target)
    assert (done.width, done.height) == ((64, 48) if rotation == 180 else (48, 64))
    frame = read(target)[0][0]
    found = frame[-6:] if "bottom" in corner else frame[:6]
    found = found[:, :6] if "left" in corner else found[:, -6:]
    assert found[..., 0].mean() > 150 and found[..., 1].mean() < 90


MATRICES = {  # a, b, c, d of the display matrix of each EXIF orientation
    1: (1, 0, 0, 1),
    2: (-1, 0, 0, 1),
    3: (-1, 0, 0, -1),
    4: (1, 0, 0, -1),
    5: (0, 1, 1, 0),
    6: (0, 1, -1, 0),
    7: (0, -1, -1, 0),
    8: (0, -1, 1, 0),
}


@pytest.mark.parametrize("orientation", MATRICES)
def test_all_eight_orientations(tmp_path, orientation):
    content = write(tmp_path / "stored.mp4", even(2)).read_bytes()
    at = content.index(b"tkhd") + 44
    a, b, c, d = (round(value * 65536) for value in MATRICES[orientation])
    (tmp_path / "a.mp4").write_bytes(
        content[:at] + struct.pack(">9i", a, b, 0, c, d, 0, 0, 0, 1 << 30) + content[at + 36 :]
    )
    upright = picture(0) if orientation == 1 else Image.fromarray(picture(0)).transpose(TURNS[orientation])
    frame = read(tmp_path / "a.mp4")[0][0]
    assert frame.shape == np.asarray(upright).shape and brightness_is_close(frame, np.asarray(upright))


@pytest.mark.parametrize("size", [(65, 49), (17, 301), (640, 16)])
def test_odd_sides_become_even(tmp_path, size):
    source = write(tmp_path / "a.mkv", even(3), size, pixels="yuv444p")
    done = copy(source, tmp_path / "b.mp4")
    assert done.width % 2 == done.height % 2 == 0
    assert abs(done.width - size[0]) <= 1 and abs(done.height - size[1]) <= 1


def test_large_frames_are_scaled_down(tmp_path):
    done = copy(write(tmp_path / "a.mp4", even(2), (2560, 1440)), tmp_path / "b.mp4")
    assert (done.width, done.height) == (1280, 720)


def test_pixels_that_are_no_squares_are_stretched(tmp_path):
    ((frame, _), *_) = read(write(tmp_path / "a.mp4", even(2), (64, 48), ratio=Fraction(2)))
    assert frame.shape == (48, 128, 3)


def test_sound_stays_and_ends_with_the_picture(tmp_path, monkeypatch):
    monkeypatch.setattr(video, "MAX_SECONDS", 1)
    copy(write(tmp_path / "a.mp4", even(60), sound="aac"), tmp_path / "b.mp4")
    with av.open(str(tmp_path / "b.mp4")) as written:
        ends = [float(packet.pts * packet.time_base) for packet in written.demux(audio=0) if packet.pts is not None]
    assert len(ends) > 10 and 0.8 < max(ends) <= 1


@pytest.mark.parametrize("limit, value, frames", [("MAX_SECONDS", 1, 30), ("MAX_FRAMES", 20, 20)])
def test_a_long_video_is_cut_with_a_notice(tmp_path, monkeypatch, limit, value, frames):
    source = write(tmp_path / "a.mp4", even(45))
    monkeypatch.setattr(video, limit, value)
    done = copy(source, tmp_path / "b.mp4")
    assert done.frames == frames == len(read(tmp_path / "b.mp4"))
    assert f"{value} {'seconds' if limit == 'MAX_SECONDS' else 'frames'}" in done.notice


def test_a_video_that_just_fits_has_no_notice(tmp_path, monkeypatch):
    monkeypatch.setattr(video, "MAX_FRAMES", 20)
    done = copy(write(tmp_path / "a.mp4", even(20)), tmp_path / "b.mp4")
    assert done.frames == 20 and done.notice == ""


@pytest.mark.parametrize("transfer, is_hdr", [(16, True), (18, True), (1, False), (13, False)])
def test_hdr_has_a_notice(tmp_path, transfer, is_hdr):
    done = copy(write(tmp_path / "a.mp4", even(3), transfer=transfer), tmp_path / "b.mp4")
    assert ("HDR" in done.notice) == is_hdr


@pytest.mark.parametrize("sound, is_kept", [("aac", True), ("mp3", True), ("pcm_s16le", False), ("ac3", False)])
def test_sound_that_is_left_out_has_a_notice(tmp_path, sound, is_kept):
    done = copy(write(tmp_path / "a.mkv", even(30), sound=sound), tmp_path / "b.mp4")
    assert ("sound" in done.notice) == (not is_kept)
    with av.open(str(tmp_path / "b.mp4")) as written:
        assert len(written.streams.audio) == is_kept


def test_notices_are_joined(tmp_path, monkeypatch):
    monkeypatch.setattr(video, "MAX_FRAMES", 20)
    done = copy(write(tmp_path / "a.mkv", even(30), sound="pcm_s16le", transfer=16), tmp_path / "b.mp4")
    for told in ("HDR", "20 frames", "sound"):
        assert told in done.notice
    assert "  " not in done.notice


def test_a_damaged_place_is_skipped(tmp_path):
    source = write(tmp_path / "a.mp4", even(120), (160, 120))
    content = bytearray(source.read_bytes())
    middle = len(content) // 2
    content[middle : middle + 400] = np.random.default_rng(0).bytes(400)
    source.write_bytes(content)
    seen = numbers([frame for frame, _ in read(source)])
    assert 60 < len(seen) <= 120 and seen[:20] == list(range(20)) and seen[-10:] == [n % 32 for n in range(110, 120)]


def test_a_file_that_breaks_off_gives_what_it_has(tmp_path):
    source = write(tmp_path / "a.mkv", even(90), (160, 120))
    source.write_bytes(source.read_bytes()[: source.stat().st_size // 2])
    assert 10 < copy(source, tmp_path / "b.mp4").frames < 90


def _bad_files(folder):
    whole = write(folder / "whole.mp4", even(30))
    playlist = f"#EXTM3U\n#EXT-X-TARGETDURATION:5\n#EXTINF:5,\n{whole}\n#EXT-X-ENDLIST\n"
    with av.open(str(folder / "sound.m4a"), "w") as output:
        _write_sound(output, output.add_stream("aac", rate=SOUND_RATE, layout="mono"), 1)
    with av.open(str(folder / "image.png"), "w", format="image2") as output:
        stream = output.add_stream("png")
        stream.width, stream.height, stream.pix_fmt = 64, 48, "rgb24"
        output.mux(stream.encode(av.VideoFrame.from_ndarray(picture(0), format="rgb24")))
        output.mux(stream.encode(None))
    contents = {
        "text": b"I am no video.\n" * 100,
        "zero bytes": b"",
        "noise": np.random.default_rng(0).bytes(20000),
        "broken off": whole.read_bytes()[:2000],
        "only sound": (folder / "sound.m4a").read_bytes(),
        "an image": (folder / "image.png").read_bytes(),
        "a playlist": playlist.encode(),
        "a list of files": f"ffconcat version 1.0\nfile {whole}\n".encode(),
    }
    return contents


def test_files_that_are_no_video_are_named_so(tmp_path):
    for name, content in _bad_files(tmp_path).items():
        source = tmp_path / "upload.mp4"
        source.write_bytes(content)
        before = sorted(os.listdir(tmp_path))
        with pytest.raises(ValueError, match=NO_VIDEO) as raised:
            copy(source, tmp_path / "b.mp4")
        assert "\n" not in str(raised.value) and str(tmp_path) not in str(raised.value), name
        assert sorted(os.listdir(tmp_path)) == before, name
    for missing in (tmp_path / "none.mp4", tmp_path):
        with pytest.raises(ValueError, match=NO_VIDEO):
            copy(missing, tmp_path / "b.mp4")


@pytest.mark.parametrize("size", [(4200, 32), (8, 64)])
def test_frames_beyond_the_limits_are_refused(tmp_path, size):
    source = write(tmp_path / "a.mkv", even(1), size)
    with pytest.raises(ValueError, match=f"4096 pixels a side, but got {size[0]} x {size[1]}"):
        copy(source, tmp_path / "b.mp4")


def test_a_bomb_of_pixels_is_refused_before_it_takes_the_memory(tmp_path):
    source = tmp_path / "a.mov"
    with av.open(str(source), "w") as output:
        stream = output.add_stream("png", rate=1)
        stream.width, stream.height, stream.pix_fmt = 8000, 8000, "gray"
        output.mux(stream.encode(av.VideoFrame.from_ndarray(np.zeros((8000, 8000), np.uint8), format="gray")))
        output.mux(stream.encode(None))
    told = annotate_and_tell_memory(source, tmp_path / "b.mp4")
    assert "4096 pixels a side" in told and int(told.split()[-1]) < 30_000  # KB; a frame takes 62,500


def test_nothing_is_left_of_what_was_stopped(tmp_path):
    source, target = write(tmp_path / "a.mp4", even(60)), tmp_path / "b.mp4"
    target.write_bytes(b"older")

    def fail(frame, seconds):
        if seconds > 0.5:
            raise RuntimeError("stop")
        return frame

    with pytest.raises(RuntimeError, match="stop"):
        copy(source, target, fail)
    running = annotate_video(source, target, lambda frame, seconds: frame)
    shares = [next(running).share for _ in range(40)]
    running.close()
    assert 0 < shares[5] < shares[-1] < 1
    for bad in (lambda frame, seconds: frame[:10], lambda frame, seconds: None):
        with pytest.raises(ValueError, match=r"annotate must return a uint8 array \(48, 64, 3\), but got"):
            copy(source, target, bad)
    assert sorted(os.listdir(tmp_path)) == ["a.mp4", "b.mp4"] and target.read_bytes() == b"older"


def test_a_place_that_cannot_be_written_to_is_no_fault_of_the_video(tmp_path):
    with pytest.raises(OSError):
        copy(write(tmp_path / "a.mp4", even(3)), tmp_path / "none" / "b.mp4")


def test_memory_is_flat(tmp_path):
    source = write(tmp_path / "a.mp4", even(200), (640, 480))
    told = annotate_and_tell_memory(source, tmp_path / "b.mp4", after=100)
    assert int(told) < 30_000  # KB; 100 frames would be 92,000
