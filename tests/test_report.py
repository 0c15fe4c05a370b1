"""The report of an evaluation: its files, its tables on any terminal, and what is no report."""

import csv
import io
import json
import math

import pytest
from rich.console import Console

from training_mtld.evaluation.report import read_report, show_report, write_report

NAN = float("nan")
KINDS = ("inter-ocular", "inter-pupil", "box", "diagonal")


def interval(value: float) -> dict[str, float]:
    return {"value": value, "low": 0.9 * value, "high": 1.1 * value}


def normalizer_scores(nme: float) -> dict:
    return {
        "nme": interval(nme),
        "failure_rate@8%": interval(0.0361),
        "auc@8%": interval(0.56789),
        "failure_rate@10%": interval(1.0),
        "auc@10%": interval(0.6543),
        **{f"p{share}": interval(nme * share / 50) for share in (50, 90, 95, 99)},
        "parts": {"jaw": 1.5 * nme, "nose_bridge": NAN},
        "landmarks": {f"jaw_{number}": number / 100 for number in range(8)} | {"chin": NAN},
    }


def new_report(names=("common", "challenging", "full"), **facts) -> dict:
    scores = {
        name: {
            "faces": 100 + number,
            "normalizers": {
                kind: normalizer_scores(0.0341234 * (1 + number) / (1 + place)) for place, kind in enumerate(KINDS)
            },
        }
        for number, name in enumerate(names)
    }
    return {
        "checkpoint": "mtld-r18",
        "commit": None,
        "dataset": "300w",
        "title": "300W",
        "normalizer": "inter-ocular",
        "threshold": 0.08,
        "flip": False,
        "resamples": 2000,
        "scores": scores,
        **facts,
    }


def box_noise() -> dict:
    curves = {name: [interval(0.03 + 0.1 * level) for level in (0, 0.05)] for name in ("shift", "both")}
    return {"levels": [0, 0.05], "normalizer": "inter-ocular", "split": "common", "curves": curves}


def face_row(number: int, error: float = 0.0123456, **columns) -> dict:
    return {"split": "common", "number": number, **columns, "nme": {"inter-ocular": error}, "subsets": {"dark": True}}


def shown(report: dict, width: int = 80) -> str:
    """As in a pipe, where nothing is a terminal."""
    file = io.StringIO()
    show_report(report, Console(file=file, width=width))
    return file.getvalue()


def rows_of(path) -> list[dict]:
    with path.open(newline="") as file:
        return list(csv.DictReader(file))


# Files -----------------------------------------------------------------------------------------------------------


def test_report_is_read_as_it_was_written(tmp_path):
    report = new_report(box_noise=box_noise())
    write_report(tmp_path / "new" / "folder", report, [face_row(0)])
    for path in (tmp_path / "new" / "folder", tmp_path / "new" / "folder" / "scores.json"):
        found = read_report(path)
        assert found["commit"] is None
        assert math.isnan(found["scores"]["common"]["normalizers"]["box"]["parts"]["nose_bridge"])
        assert repr(found) == repr(report)
    names = sorted(file.name for file in (tmp_path / "new" / "folder").iterdir())
    assert names == ["faces.csv", "scores.csv", "scores.json"]


def test_nan_is_null_in_json(tmp_path):
    write_report(tmp_path, new_report(), [])
    text = (tmp_path / "scores.json").read_text()
    assert "NaN" not in text
    assert json.loads(text)["scores"]["full"]["normalizers"]["box"]["landmarks"]["chin"] is None


def test_table_of_scores_in_percent(tmp_path):
    write_report(tmp_path, new_report(), [])
    rows = rows_of(tmp_path / "scores.csv")
    assert len(rows) == 3 * len(KINDS)
    assert list(rows[0])[:8] == ["dataset", "split", "faces", "normalizer", "unit", "nme", "nme_low", "nme_high"]
    first = {key: rows[0][key] for key in ("dataset", "split", "faces", "normalizer", "unit", "nme")}
    assert first == {
        "dataset": "300w",
        "split": "common",
        "faces": "100",
        "normalizer": "inter-ocular",
        "unit": "percent",
        "nme": "3.41234",
    }
    assert float(rows[0]["failure_rate@8%_high"]) == pytest.approx(3.61 * 1.1)
    assert not {"parts", "landmarks"} & rows[0].keys()


def test_table_of_faces_in_percent(tmp_path):
    write_report(tmp_path, new_report(), [face_row(0, image_id="a, b"), face_row(1, NAN, image_id="c")])
    assert rows_of(tmp_path / "faces.csv") == [
        {
            "split": "common",
            "number": number,
            "image_id": image_id,
            "unit": "percent",
            "nme_inter-ocular": error,
            "dark": "True",
        }
        for number, image_id, error in (("0", "a, b", "1.23456"), ("1", "c", ""))
    ]
    write_report(tmp_path, new_report(), [face_row(0)])
    assert "image_id" not in rows_of(tmp_path / "faces.csv")[0]


def test_report_that_cannot_be_written_leaves_the_old_one(tmp_path):
    write_report(tmp_path, new_report(), [face_row(0)])
    before = (tmp_path / "scores.json").read_bytes()
    with pytest.raises(TypeError):
        write_report(tmp_path, new_report(checkpoint=object()), [face_row(0)])
    assert (tmp_path / "scores.json").read_bytes() == before
    assert sorted(file.name for file in tmp_path.iterdir()) == ["faces.csv", "scores.csv", "scores.json"]


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (b'{"dataset": ', "must be JSON, but got"),
        (b"\xff\xfe\x00", "must be JSON, but got"),
        (b"[]", "must be the scores.json of an evaluation, but it has no dataset, title, normalizer, scores"),
        (b'{"dataset": "300w", "title": "300W", "scores": {}}', "but it has no normalizer"),
        (b'{"dataset": 1, "title": 1, "normalizer": "box", "scores": {}}', "must hold scores by name, but got {}"),
        (b'{"dataset": 1, "title": 1, "normalizer": "box", "scores": [1]}', "must hold scores by name, but got"),
        (
            b'{"dataset": 1, "title": 1, "normalizer": "box", "scores": {"test": 3}}',
            "must hold scores of test by name",
        ),
        (
            b'{"dataset": 1, "title": 1, "normalizer": "box", "scores": {"test": {"normalizers": {"box": {}}}}}',
            "must hold faces and nme of test under box",
        ),
        (
            b'{"dataset": 1, "title": 1, "normalizer": "box", "scores": {"test": {"faces": 1, "normalizers": '
            b'{"eyes": {"nme": {"value": 0.1}}}}}}',
            "must hold test under box, but got eyes",
        ),
    ],
)
def test_what_is_no_report(tmp_path, content, message):
    path = tmp_path / "scores.json"
    path.write_bytes(content)
    with pytest.raises(ValueError) as error:
        read_report(path)
    assert str(error.value).startswith(f"{path} ")
    assert message in str(error.value)


def test_report_that_is_not_there(tmp_path):
    with pytest.raises(ValueError, match="scores.json must be the scores.json of an evaluation, but there is no"):
        read_report(tmp_path)


# Screen ----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("width", [80, 120])
def test_tables_fit_the_terminal(width):
    text = shown(new_report(box_noise=box_noise()), width)
    assert all(len(line) <= width for line in text.splitlines())
    assert "…" not in text
    assert "\x1b" not in text


@pytest.mark.parametrize("width", [20, 40, 80, 200])
def test_no_number_is_cut_off(width):
    text = shown(new_report(), width)
    for number in ("3.412", "3.071-3.754", "3.61", "56.79", "100.00", "65.43", "6.142", "20.269", "5.119"):
        assert number in text.split(), number


def test_main_normaliser_comes_first_and_each_row_says_which():
    lines = shown(new_report(), 120).splitlines()
    rows = [line.split()[:2] for line in lines if line.startswith(("common", "challenging", "full"))]
    assert rows[:4] == [[name, "inter-ocular"] for name in ("common", "challenging", "full")] + [
        ["common", "inter-pupil"]
    ]
    assert len(rows) == 3 * len(KINDS)


def test_normaliser_that_a_split_lacks_has_no_row():
    report = new_report()
    del report["scores"]["full"]["normalizers"]["inter-pupil"]
    rows = [line.split()[:2] for line in shown(report, 120).splitlines()]
    assert ["common", "inter-pupil"] in rows
    assert ["full", "inter-pupil"] not in rows


def test_worst_landmarks_leave_out_those_without_a_score():
    text = shown(new_report(["common"]))
    worst = text[text.index("Worst") :]
    assert [f"jaw_{number}" in worst for number in range(8)] == [False] * 3 + [True] * 5
    assert "jaw_7 7.000" in worst
    assert "chin" not in worst


def test_thresholds_are_those_of_the_report():
    report = new_report(["test"])
    for values in report["scores"]["test"]["normalizers"].values():
        values["failure_rate@7%"], values["auc@7%"] = interval(0.0789), interval(0.4567)
    text = shown(report, 120)
    assert "@7%" in text
    assert "7.89" in text
    assert "45.67" in text


def test_checkpoint_and_flip_are_told():
    text = " ".join(shown(new_report(flip=True)).split())
    assert "mtld-r18 on 300W: in %" in text
    assert "mirror image" in text
    assert "mirror image" not in shown(new_report())


def test_confidences_and_box_noise_are_shown_where_there_are_any():
    assert "Confidences" not in shown(new_report())
    assert "Box noise" not in shown(new_report())
    report = new_report(box_noise=box_noise())
    report["scores"]["common"] |= {"confidence_ratio": 1.234, "likelihood_gain": 0.0321}
    text = shown(report)
    assert "1.23" in text
    assert "+0.032" in text
    assert "3.500" in text[text.index("Box noise") :]


def test_layers_and_offset_are_shown_where_there_are_any():
    assert "Layers and offset" not in shown(new_report())
    report = new_report()
    report["scores"]["common"] |= {
        "layers": {"initial": 0.0512, "1": 0.0456, "2": 0.0431},
        "offset": {"x": -0.0045, "y": 0.001},
    }
    table = shown(report).split("Layers and offset")[1].split("Facial parts")[0]
    rows = {" ".join(line.split()[:-1]): line.split()[-1] for line in table.splitlines() if line.split()}
    assert rows["initial"] == "5.120" and rows["layer 1"] == "4.560" and rows["layer 2"] == "4.310"
    assert rows["offset x"] == "-0.450" and rows["offset y"] == "0.100"


def test_benchmark_without_parts():
    report = new_report()
    for scores in report["scores"].values():
        for values in scores["normalizers"].values():
            values["parts"] = {}
    assert "Facial parts" not in shown(report)


def test_names_are_shown_as_they_are():
    """rich reads brackets as its own markup."""
    text = shown(new_report(["common[:100]", "common+challenging", "[bold]", "瞳"]), 160)
    for name in ("common[:100]", "common+challenging", "[bold]", "瞳"):
        assert f"\n{name} " in text


def test_terminal_that_knows_ascii_alone():
    file = io.TextIOWrapper(io.BytesIO(), encoding="ascii")
    show_report(new_report(), Console(file=file, width=80))
    file.flush()
    assert b"3.412" in file.buffer.getvalue()


def test_terminal_keeps_its_width():
    console = Console(file=io.StringIO(), width=30)
    show_report(new_report(), console)
    assert console.width == 30


def test_report_with_the_necessary_keys_alone(tmp_path):
    report = new_report()
    write_report(tmp_path, {key: report[key] for key in ("dataset", "title", "normalizer", "scores")}, [])
    assert "3.412" in shown(read_report(tmp_path))
