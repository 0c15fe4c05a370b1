import csv
import json
import re
import shutil
import signal
import subprocess
import sys
from pathlib import Path

import cv2
import pytest
import torch
from PIL import Image
from skimage.data import astronaut

from modeling_mtld import detect
from modeling_mtld.configuration_mtld import MTLDConfig
from modeling_mtld.image_processing_mtld import MTLDImageProcessor
from modeling_mtld.modeling_mtld import MTLDForFacialLandmarkDetection

NAMES = ["left_eye_0", "left_eye_1", "mouth_0", "mouth_1"]
OPTIONS = {"plain": [], "numbered": ["--numbers"], "coloured": ["--confidence"]}
FRACTIONS = [[0.1, 0.1], [0.9, 0.1], [0.1, 0.9], [0.9, 0.9]]


@pytest.fixture(scope="module")
def checkpoint(tmp_path_factory):
    """An untrained network, which answers its mean face for every crop."""
    folder = tmp_path_factory.mktemp("checkpoints") / "tiny"
    model = MTLDForFacialLandmarkDetection(
        MTLDConfig(
            backbone="test_resnet.r160_in1k",
            image_size=32,
            num_landmarks=4,
            landmark_names=NAMES,
            flip_pairs=[[0, 1], [2, 3]],
            hidden_size=8,
            num_attention_heads=2,
            use_heatmap_loss=False,
        )
    )
    model.set_mean_face(torch.tensor(FRACTIONS))
    model.save_pretrained(folder)
    MTLDImageProcessor(size=32).save_pretrained(folder)
    return folder


@pytest.fixture
def run(checkpoint, tmp_path, monkeypatch, capsys):
    """Runs the command in an empty folder: exit status, stdout, stderr."""
    monkeypatch.chdir(tmp_path)

    def run(*arguments):
        capsys.readouterr()
        try:
            status = detect.main(["--model", str(checkpoint), "--device", "cpu", *map(str, arguments)])
        except SystemExit as error:
            status = error.code
        return status, *capsys.readouterr()

    return run


def test_built_in_photo(run):
    status, out, err = run()
    assert status == 0
    (face,) = json.loads(out)
    assert [mark["label"] for mark in face["landmarks"]] == NAMES
    picture, written = Path("detect_output/astronaut_landmarks.png"), Path("detect_output/astronaut_landmarks.json")
    assert str(written) in err and err.endswith(f"{picture}\n") and err.count("\n") == 1
    assert json.loads(written.read_text()) == [face]
    assert Image.open(picture).width % 512 == 0
    assert sorted(Path("detect_output").iterdir()) == [written, picture]


def test_given_boxes_and_folder_beside_the_photo(run):
    Image.new("RGB", (200, 100)).save("photo.png")
    before = Path("photo.png").read_bytes()
    status, out, _ = run("photo.png", "--box", 10, 10, 50, 50, "--box", -5, 20, 30, 60.5, "--output_dir", ".")
    assert status == 0 and len(json.loads(out)) == 2
    assert Path("photo_landmarks.png").is_file()
    assert Path("photo.png").read_bytes() == before


def test_several_photos_and_a_folder(run):
    Path("photos/more").mkdir(parents=True)
    for name in ("photos/a.png", "photos/b.jpg", "photos/more/a.png"):
        Image.fromarray(astronaut()).save(name)
    Path("photos/notes.txt").write_text("no photo")
    status, out, err = run("photos", "photos/more/a.png", "--csv")
    assert status == 0 and err.count("\n") == 3
    faces = json.loads(out)
    assert list(faces) == ["photos/a.png", "photos/b.jpg", "photos/more/a.png"]
    assert {path.name for path in Path("detect_output").iterdir()} == {
        f"{stem}_landmarks.{suffix}" for stem in ("a", "b", "a_2") for suffix in ("png", "json", "csv")
    }
    with open("detect_output/b_landmarks.csv", newline="") as table:
        rows = list(csv.DictReader(table))
    assert [row["label"] for row in rows] == NAMES
    assert float(rows[0]["x"]) == faces["photos/b.jpg"][0]["landmarks"][0]["x"]


def test_a_folder_alone_prints_all_of_its_photos(run):
    Path("photos").mkdir()
    for name in ("photos/a.png", "photos/b.png"):
        Image.fromarray(astronaut()).save(name)
    status, out, _ = run("photos")
    assert status == 0 and list(json.loads(out)) == ["photos/a.png", "photos/b.png"]


def test_a_bad_photo_does_not_cost_the_others(run):
    Image.fromarray(astronaut()).save("b.png")
    Path("a.png").write_text("no picture")
    Path("c.png").write_text("no picture")
    status, out, err = run("b.png", "c.png")
    assert status == 2 and list(json.loads(out)) == ["b.png"] and "c.png" in err


def test_numbers_have_two_decimals_and_a_terminal_gets_a_summary(run, monkeypatch):
    _, out, _ = run()
    numbers = [
        value for mark in json.loads(out)[0]["landmarks"] for value in mark.values() if not isinstance(value, str)
    ]
    assert numbers and all(value == round(value, 2) for value in numbers)
    monkeypatch.setattr("sys.stdout.isatty", lambda: True, raising=False)
    status, out, err = run()
    assert (status, out) == (0, "") and "1 face in astronaut" in err
    assert json.loads(run("--json")[1])


def test_a_dropped_face_is_told_with_the_option_that_keeps_it(run):
    """The untrained network scores every face 0.80."""
    status, _, err = run("--min_score", 0.9)
    assert status == 2 and "1 face scored 0.80, below 0.90: --min_score " in err
    option, value = re.search(r"(--min_score) (\S+) keeps it", err).groups()
    assert run(option, value)[0] == 0


def test_a_video_is_followed_and_written(run):
    writer = cv2.VideoWriter("clip.mp4", cv2.VideoWriter_fourcc(*"mp4v"), 10, (256, 256))
    for shift in range(6):
        writer.write(cv2.cvtColor(astronaut()[:256, 80 + 2 * shift :][:, :256], cv2.COLOR_RGB2BGR))
    writer.release()
    status, out, err = run("clip.mp4", "--csv")
    assert status == 0 and "6 frames in clip.mp4" in err
    track = json.loads(out)
    assert track["fps"] == 10 and [frame["seconds"] for frame in track["frames"]] == [0, 0.1, 0.2, 0.3, 0.4, 0.5]
    assert all(len(frame["faces"]) == 1 and frame["faces"][0]["id"] is not None for frame in track["frames"])
    capture = cv2.VideoCapture("detect_output/clip_landmarks.mp4")
    assert capture.get(cv2.CAP_PROP_FRAME_COUNT) == 6
    assert Path("detect_output/clip_landmarks.csv").read_text().count("\n") == 1 + 6 * len(NAMES)
    Path("text.mp4").write_text("no video")
    status, out, err = run("text.mp4")
    assert (status, out) == (2, "") and "text.mp4 must be a video" in err and "Traceback" not in err


def test_flip(run, checkpoint, tmp_path):
    Image.new("RGB", (200, 100)).save("photo.png")
    box = ["photo.png", "--box", 10, 10, 50, 50]
    once, both = (json.loads(run(*box, *options)[1])[0] for options in ([], ["--flip"]))
    for mark, mean in zip(once["landmarks"], both["landmarks"]):
        assert mean == pytest.approx(mark, abs=1e-3)  # the mean face of this network is symmetric
    shutil.copytree(checkpoint, tmp_path / "unpaired")
    config = json.loads((checkpoint / "config.json").read_text()) | {"flip_pairs": None}
    (tmp_path / "unpaired" / "config.json").write_text(json.dumps(config))
    status, _, err = run(*box, "--flip", "--model", tmp_path / "unpaired")
    assert (status, err.count("\n")) == (2, 1) and "flip_pairs must be" in err


def test_numbers_and_confidence_are_in_the_picture(run):
    Image.new("RGB", (400, 400), "gray").save("photo.png")
    box = ["photo.png", "--box", 50, 50, 350, 350, "--output_dir"]
    answers = {run(*box, folder, *options)[1] for folder, options in OPTIONS.items()}
    assert len(answers) == 1
    sizes = {folder: Image.open(Path(folder, "photo_landmarks.png")).size for folder in OPTIONS}
    assert sizes == {"plain": (400, 400), "numbered": (1200, 1200), "coloured": (400, 400)}
    colors = [Image.open(Path(folder, "photo_landmarks.png")).getpixel((50, 50)) for folder in ("plain", "coloured")]
    assert colors[0] != colors[1]


def test_photo_without_a_face(run):
    Image.new("RGB", (100, 100), "gray").save("wall.jpg")
    status, out, err = run("wall.jpg")
    assert (status, out) == (2, "") and err.startswith("detect: no face found in wall.jpg; give --box X0 Y0 X1 Y1")
    assert "with make: ARGS=" in err and err.count("\n") == 1
    assert not Path("detect_output").exists()


@pytest.mark.parametrize(
    "arguments, culprit",
    [
        (["missing.jpg"], "missing.jpg"),
        (["empty"], "directory"),
        (["--min_score", 2], "--min_score"),
        (["--detector", "none"], "detector"),
        (["text.jpg"], "text.jpg"),
        (["truncated.jpg"], "truncated.jpg"),
        (["--box", 10, 10, 10, 50], "no area"),
        (["--box", "nan", 10, 20, 50], "finite"),
        (["--box", 9000, 9000, 9100, 9100], "must overlap its photo"),
        (["--box", 1, 2, 3], "--box"),
        (["--box", "a", 2, 3, 4], "'a'"),
        (["--model", "nowhere"], "nowhere"),
        (["--model", "."], "--model"),
        (["--model", "other"], "bert"),
        (["--model", "broken"], "broken"),
        (["--device", "toaster"], "toaster"),
        (["--output_dir", "text.jpg"], "text.jpg"),
        (["--output_dir", "text.jpg/below"], "text.jpg"),
        (["--wrong"], "--wrong"),
    ],
)
def test_bad_input_is_one_line(run, arguments, culprit):
    Path("text.jpg").write_text("no picture")
    Image.fromarray(astronaut()).save("whole.jpg")
    Path("empty").mkdir()
    Path("truncated.jpg").write_bytes(Path("whole.jpg").read_bytes()[:5000])
    for folder, config in [("other", '{"model_type": "bert"}'), ("broken", '{"model_type": "mtld"')]:
        Path(folder).mkdir()
        Path(folder, "config.json").write_text(config)
    status, out, err = run(*arguments)
    assert (status, out) == (2, "")
    assert err.startswith("detect: ") and err.count("\n") == 1 and culprit in err
    assert not Path("detect_output").exists()


def test_module_runs_as_a_command(tmp_path):
    command = [sys.executable, "-m", "modeling_mtld.detect", str(tmp_path / "missing.jpg")]
    done = subprocess.run(command, capture_output=True, text=True, cwd=Path(__file__).resolve().parents[1])
    assert (done.returncode, done.stdout) == (2, "")
    assert "missing.jpg" in done.stderr and done.stderr.count("\n") == 1


@pytest.mark.skipif(not shutil.which("make"), reason="there is no make")
@pytest.mark.parametrize("goal", ["detect", "demo"])
@pytest.mark.parametrize("status", [0, 2])
def test_make_adds_nothing_to_the_line_of_a_command_that_fails(tmp_path, goal, status):
    python = tmp_path / "bin" / "python"
    python.parent.mkdir()
    python.write_text(f'#!/bin/sh\necho "$2 said $3" >&2; exit {status}')
    python.chmod(0o755)
    (tmp_path / ".installed").touch()
    root = Path(__file__).resolve().parents[1]
    command = ["make", "--no-print-directory", goal, f"VENV={tmp_path}", "ARGS=x", "IMAGE=a 'photo'.jpg"]
    line = ("modeling_mtld.detect said a 'photo'.jpg" if goal == "detect" else "x said ") + "\n"

    def run(handler):
        def before():
            signal.signal(signal.SIGQUIT, handler)

        return subprocess.run(command, capture_output=True, text=True, cwd=root, preexec_fn=before)

    done = run(signal.SIG_DFL)
    assert (done.returncode, done.stdout, done.stderr) == (1 if status else 0, "", line)
    done = run(signal.SIG_IGN)  # as in a background job
    assert (done.returncode, done.stderr.startswith(line)) == (status, True)


def test_a_reader_that_stops_early_is_no_error(tmp_path):
    """As in `... | head -1`. The files are whole by then."""
    command = [
        sys.executable,
        "-m",
        "modeling_mtld.detect",
        "--box",
        "179",
        "87",
        "272",
        "179",
        "--output_dir",
        tmp_path,
    ]
    root = Path(__file__).resolve().parents[1]
    with subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, cwd=root) as process:
        process.stdout.close()
        errors = process.stderr.read()
    assert "Traceback" not in errors and "1 face in astronaut" in errors
    assert json.loads((tmp_path / "astronaut_landmarks.json").read_text())
