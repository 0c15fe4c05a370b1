"""The metric's Space: formats of files, numbers by hand, what is refused, and the running app as visitors reach it."""

import importlib.util
import json
import os
import re
import shutil
import sys
from pathlib import Path

import evaluate
import numpy as np
import pytest

ROOT = Path(__file__).resolve().parents[1]
SPACE = ROOT / "space" / "nme"
EXAMPLES = SPACE / "examples"
NAN = float("nan")
pytest.importorskip("gradio")


@pytest.fixture(scope="module")
def app():
    """space/nme/app.py under a name of its own, as the demo beside it has an app.py too."""
    sys.path.insert(0, str(SPACE))
    try:
        spec = importlib.util.spec_from_file_location("nme_app", SPACE / "app.py")
        module = importlib.util.module_from_spec(spec)
        spec.loader.exec_module(module)
        yield module
    finally:
        sys.path.remove(str(SPACE))


@pytest.fixture
def read(app, tmp_path):
    def read(content, name="faces.json"):
        path = tmp_path / "upload"
        path.write_bytes(content if isinstance(content, bytes) else content.encode())
        return app.read_faces(path, name)

    return read


@pytest.fixture
def score(app, read):
    def score(predictions, references, **options):
        return app.score_faces(
            [read(json.dumps(predictions), "p.json")], read(json.dumps(references), "r.json"), **options
        )

    return score


def faces(points=68, count=3):
    generator = np.random.default_rng(points)
    references = generator.uniform(0, 100, (count, points, 2))
    return references + generator.normal(size=references.shape), references


def test_scores_are_those_of_the_metric_with_the_stated_normaliser(score):
    predictions, references = faces()
    scores = score(predictions.tolist(), references.tolist())
    lengths = np.linalg.norm(references[:, 36] - references[:, 45], axis=1)
    errors = np.linalg.norm(predictions - references, axis=2) / lengths[:, None]
    (result,) = scores["results"]
    assert (scores["normalizer"], scores["failure_threshold"], scores["auc_threshold"]) == ("inter-ocular", 0.08, 0.08)
    assert "inter-ocular distance between points 36 and 45" in scores["normalizer_description"]
    assert result["nme"] == pytest.approx(errors.mean())
    assert result["per_face"] == pytest.approx(errors.mean(axis=1))
    assert result["per_landmark"] == pytest.approx(errors.mean(axis=0))
    assert result["median"] == pytest.approx(np.median(errors.mean(axis=1)))


@pytest.mark.parametrize(
    ("points", "normalizer", "chosen", "ends"),
    [
        (98, "auto", "inter-ocular", ([60], [72])),
        (29, "auto", "inter-ocular", ([8], [9])),
        (68, "inter-pupil", "inter-pupil", (range(36, 42), range(42, 48))),
        (98, "inter-pupil", "inter-pupil", ([96], [97])),
        (29, "inter-pupil", "inter-pupil", ([16], [17])),
        (5, "two points", "two points", ([3], [4])),
        (19, "auto", "box", None),
        (19, "diagonal", "diagonal", None),
    ],
)
def test_normalisers(score, points, normalizer, chosen, ends):
    predictions, references = faces(points)
    scores = score(predictions.tolist(), references.tolist(), normalizer=normalizer, points=(3, 4))
    if ends is None:
        sides = np.ptp(references, axis=1)
        lengths = np.sqrt(sides[:, 0] * sides[:, 1]) if chosen == "box" else np.hypot(*sides.T)
    else:
        lengths = np.linalg.norm(references[:, ends[0]].mean(axis=1) - references[:, ends[1]].mean(axis=1), axis=1)
    assert scores["normalizer"] == chosen
    assert scores["normalizers"] == pytest.approx(lengths)
    assert scores["failure_threshold"] == (0.08 if points == 68 else 0.10)


def test_thresholds_are_the_visitors(score):
    faces = [[[0, 0], [10, 0]]]
    scores = score([[[0, 1], [10, 0]]], faces, normalizer="two points", failure_threshold=0.04, auc_threshold=0.5)
    assert scores["results"][0]["failure_rate"] == 1
    assert scores["results"][0]["auc"] == pytest.approx(0.9)


def test_points_that_are_not_annotated_do_not_count(score):
    references = [[[0, 0], None, [10, 0], [5, None]], [[0, 0], None, [10, 0], [5, 5]]]
    predictions = [[[0, 1], [9, 9], [10, 0], [9, 9]], [[0, 0], [9, 9], [10, 0], [5, 6]]]
    scores = score(predictions, references, normalizer="two points", points=(0, 2))
    assert scores["results"][0]["per_face"] == pytest.approx([0.05, 0.1 / 3])
    assert scores["results"][0]["per_landmark"] == [pytest.approx(0.05), None, 0, pytest.approx(0.1)]
    json.dumps(scores, allow_nan=False)


def test_faces_are_matched_by_id_whatever_their_order(score):
    one, other = [[0, 0], [10, 0]], [[5, 5], [5, 25]]
    scores = score({"b": other, "a": one}, {"a": one, "b": other}, normalizer="diagonal")
    assert scores["results"][0]["matched_by"] == "image_id"
    assert scores["results"][0]["per_face"] == [0, 0]
    assert scores["image_ids"] == ["a", "b"]


def test_ids_of_faces_in_lists_of_one_are_used(score):
    one, other = [[0, 0], [10, 0]], [[5, 5], [5, 25]]
    predictions = [[{"landmarks": other, "image_id": "b"}], [{"landmarks": one, "image_id": "a"}]]
    scores = score(predictions, {"a": one, "b": other}, normalizer="diagonal")
    assert scores["results"][0]["matched_by"] == "image_id"
    assert scores["results"][0]["nme"] == 0


def test_faces_are_matched_by_order_where_one_file_has_no_ids(score):
    one, other = [[0, 0], [10, 0]], [[5, 5], [5, 25]]
    scores = score([one, other], {"a": one, "b": other}, normalizer="diagonal")
    assert scores["results"][0]["matched_by"] == "order"
    assert scores["results"][0]["nme"] == 0


POINTS = [[[1, 2.5], [3, 4]], [[5, 6], [NAN, NAN]]]
LANDMARKS = [[{"label": "eye", "x": 1, "y": 2.5, "score": 1}, {"x": 3, "y": 4}], [{"x": 5, "y": 6}, None]]
CSV = "1,2.5,3,4\n5,6,,\n"


@pytest.mark.parametrize(
    ("content", "name", "ids"),
    [
        ("[[[1, 2.5], [3, 4]], [[5, 6], null]]", "a.json", None),
        ("[[[1, 2.5], [3, 4]], [[5, 6], [null, null]]]", "A.JSON", None),
        ("\ufeff[[[1, 2.5], [3, 4]], [[5, 6], [NaN, 3]]]", "a.json", None),
        ('{"é": [[1, 2.5], [3, 4]], "b": [[5, 6], null]}', "a.json", ("é", "b")),
        (json.dumps([{"score": 1, "box": {"xmin": 1}, "landmarks": marks} for marks in LANDMARKS]), "a.json", None),
        (json.dumps([[{"landmarks": marks}] for marks in LANDMARKS]), "a.json", None),
        (json.dumps({name: [{"landmarks": marks}] for name, marks in zip("ab", LANDMARKS)}), "a.json", ("a", "b")),
        (json.dumps([[{"landmarks": m, "image_id": name}] for name, m in zip("ba", LANDMARKS)]), "a.json", ("b", "a")),
        (json.dumps([{"image_id": 7 + n, "landmarks": m} for n, m in enumerate(LANDMARKS)]), "a.json", ("7", "8")),
        (CSV, "a.csv", None),
        (CSV.replace("\n", "\r\n").replace(",,", ",nan,NaN"), "a.csv", None),
        (CSV.replace(",", ";"), "a.csv", None),
        ("x0,y0,x1,y1\n" + CSV, "a.csv", None),
        ("x_1\ty_1\tX_2\tY_2\n" + CSV.replace(",", "\t"), "a.csv", None),
        ("image_id,x0,y0,x1,y1\na,1,2.5,3,4\n\nb,5,6,,\n", "a.csv", ("a", "b")),
        (',x0,y0,x1,y1\n0,1,2.5,3,4\n"1",5,6,,\n', "a.csv", ("0", "1")),
        ("a,1,2.5,3,4\nb,5,6,,\n", "a.csv", ("a", "b")),
    ],
)
def test_formats(read, content, name, ids):
    found = read(content, name)
    np.testing.assert_array_equal(found.points, POINTS)
    assert found.ids == ids
    assert found.name == name


def test_output_of_the_command_line_is_read(read):
    """A photo's faces as `python -m modeling_mtld.detect` writes them, with indents."""
    landmarks = [{"label": str(n), "x": float(n), "y": 2.0, "score": 0.7} for n in range(4)]
    found = read(json.dumps([{"score": 0.7, "box": {"xmin": 0.0}, "landmarks": landmarks}], indent=2))
    assert found.points.tolist() == [[[0, 2], [1, 2], [2, 2], [3, 2]]]


@pytest.mark.parametrize(
    ("content", "name", "message"),
    [
        ("", "zero.json", "zero.json: the file must hold landmarks, but it is empty"),
        (b"\x89PNG\r\n\x1a\n", "photo.csv", "photo.csv: the file must be text in UTF-8, but got byte 0x89"),
        ("[[[0, 0]]]", "faces.txt", r"faces.txt: the file must be a .csv or a .json"),
        ("Dear all,\nhello", "a.json", "a.json: line 1, column 1 must be JSON"),
        ("[[[0, 0]],\n[[1, 1]]", "a.json", "line 2, column 9 must be JSON"),
        ("[" * 100_000, "a.json", "a.json: .*"),
        ("3", "a.json", "must be a list or dict of faces, but got 3"),
        ("[]", "a.json", r"must be a list or dict of faces, but got \[\]"),
        ("[[0, 0], [1, 1]]", "a.json", r"face 0, point 0 must be \[x, y\] or null, but got 0"),
        ('{"a": [[0, 0, 0]]}', "a.json", r"face 'a', point 0 must be \[x, y\] or null, but got \[0, 0, 0\]"),
        ('[[[0, "one"]]]', "a.json", "face 0, point 0 must be"),
        ("[[[0, true]]]", "a.json", "face 0, point 0 must be"),
        ("[[[0, 0]], []]", "a.json", "face 1 must be one face, but got 0 in its photo"),
        ('{"a": [{"landmarks": []}, {"landmarks": []}]}', "a.json", "face 'a' must be one face, but got 2"),
        ('{"a": {"points": [[0, 0]]}}', "a.json", "face 'a' must be a list of points, but got None"),
        ("[[[0, 0]], [[0, 0], [1, 1]]]", "a.json", "face 1 must have 1 points as face 0, but got 2"),
        ('{"a": [[0, 0]], "a": [[0, 0]]}', "a.json", "each name must occur once, but got 'a' twice"),
        (
            '[{"image_id": "a", "landmarks": [[0, 0]]}, {"landmarks": [[0, 0]]}]',
            "a.json",
            "face 1 must have an image",
        ),
        (r'{"\ud800": [[0, 0]]}', "a.json", r"each image_id must be text in UTF-8, but got '\\ud800'"),
        (r'"\ud800"', "a.json", r"must be a list or dict of faces, but got \\ud800"),
        ("[[[1e400, 0]]]", "a.json", "face 0, point 0 must be from -1e.09 to 1e.09, but got inf"),
        (f"[[[1{'0' * 5000}, 0]]]", "a.json", "face 0, point 0 must be from"),
        (json.dumps([[[0, 0]] * 1001]), "a.json", "at most 1000 points, but got 1001"),
        ("[" + "[],[]," * 2_000_000 + "[]]", "a.json", "at most 1,000,000 points"),
        (json.dumps([[[0, 0]]] * 100_001), "a.json", "at most 100,000 faces"),
        ("1,2\n" * 100_001, "a.csv", "at most 100,000 faces"),
        ("x0,y0\n1,2\n1,2,3\n", "a.csv", "a.csv: line 3 must have 2 cells as the first row, but got 3"),
        ("x0,y0\n", "a.csv", "a header alone"),
        ("x0,y0\n1,two\n", "a.csv", "line 2, column 2 must be a number, but got 'two'"),
        ("hello\nworld\n", "a.csv", "line 1 must be cells separated by comma, semicolon or tab, but got 'hello'"),
        ("\n1 2 3 4\n5 6 7 8\n", "a.csv", "line 2 must be cells separated by .* but got '1 2 3 4'"),
        (",image_id,x0,y0\n0,a,1,2\n", "a.csv", "line 1 must be numbers or .* but got 'image_id' in column 2"),
        ("x0,x1,y0,y1\n1,2,3,4\n", "a.csv", "line 1 must be numbers or the header .* but got 'x0, x1, y0, y1'"),
        ("name,left,top\na,1,2\n", "a.csv", "line 1 must be numbers or the header .* but got 'left'"),
        ("0,1,2,3\n5,6,7,8\n", "a.csv", "line 1 must be numbers or the header"),
        ("1,2,3,4,\n5,6,7,8,\n", "a.csv", "line 1 must have an x and a y for each point"),
        ("image_id,x0,y0\na,1,2\n,3,4\n", "a.csv", "line 3 must begin with an image_id"),
        ("a,1,2\nb,1,2\na,3,4\n", "a.csv", "each image_id must occur once, but got 'a' twice"),
        ('x0,y0\n1,"' + "2" * 200_000, "a.csv", "a.csv: line .* must be rows of cells"),
        ("x0,y0\ninf,2\n", "a.csv", "face 0, point 0 must be from"),
    ],
)
def test_bad_file_is_named_with_the_place(read, content, name, message):
    with pytest.raises(ValueError, match=message) as error:
        read(content, name)
    assert len(str(error.value)) < 300
    assert "\n" not in str(error.value)


def test_file_that_is_too_large_or_gone(app, tmp_path):
    path = tmp_path / "upload"
    path.touch()
    os.truncate(path, 200 * 2**20)
    with pytest.raises(ValueError, match="big.json: the file must have at most 50 MB, but got 200 MB"):
        app.read_faces(path, "big.json")
    with pytest.raises(ValueError, match="gone.json: the file is not here any more; upload it again"):
        app.read_faces(tmp_path / "gone", "gone.json")


FACE = [[0, 0], [10, 0], [5, 5]]


@pytest.mark.parametrize(
    ("predictions", "references", "options", "message"),
    [
        ([FACE, FACE], [FACE], {}, "p.json must have as many faces as r.json has, 1, but got 2"),
        ({"a": FACE}, {"a": FACE, "b": FACE}, {}, "p.json must have each face of r.json, but lacks 'b'"),
        ({"a": FACE, "b": FACE}, {"a": FACE}, {}, "r.json must have each face of p.json, but lacks 'b'"),
        ({}, {str(n): FACE for n in range(9)}, {}, "p.json: the file must be a list or dict"),
        ({"x": FACE}, {str(n): FACE for n in range(9)}, {}, "lacks '0', '1', '2', '3', '4' and 4 more"),
        ([FACE[:2]], [FACE], {}, "p.json must have 3 points a face as r.json has, but got 2"),
        ({"a": [*FACE[:2], None]}, {"a": FACE}, {}, "p.json: face 'a' must have each point, but lacks point 2"),
        ({"a": FACE}, {"a": [None] * 3}, {}, "r.json: face 'a' must have an annotated point"),
        ([FACE], [[[1, 1]] * 3], {}, r"r.json: face 0 must have a normaliser \(√.*\), but got 0"),
        ([FACE], [FACE], {"normalizer": "two points", "points": (1, 1)}, "normaliser .* points 1 and 1.*, but got 0"),
        ([FACE], [[*FACE[:2], None]], {"normalizer": "two points", "points": (0, 2)}, "points that are not annotated"),
        ([FACE], [FACE], {"normalizer": "two points", "points": (0, 3)}, "numbers from 0 to 2, but got 3"),
        ([FACE], [FACE], {"normalizer": "inter-ocular"}, "inter-ocular distance must be that of 29, 68, 98 .* got 3"),
        ([FACE], [FACE], {"normalizer": "ears"}, "normalizer must be one of .* but got 'ears'"),
        ([FACE], [FACE], {"normalizer": ["auto"]}, r"normalizer must be one of .* but got \['auto'\]"),
        ([FACE], [FACE], {"normalizer": "two points", "points": (0, "1")}, "two points must be numbers .* got '1'"),
        ([FACE], [FACE], {"normalizer": "two points", "points": (True, 0)}, "two points must be numbers .* got True"),
        ([FACE], [FACE], {"failure_threshold": "abc"}, "failure_threshold must be a number, but got 'abc'"),
        ([FACE], [FACE], {"failure_threshold": -0.01}, "failure_threshold must be above 0 % .* but got -1 %"),
        ([FACE], [FACE], {"auc_threshold": NAN}, "auc_threshold must be above 0 %"),
    ],
)
def test_files_that_do_not_fit_are_named(score, predictions, references, options, message):
    with pytest.raises(ValueError, match=message):
        score(predictions, references, **options)


def test_plots_take_any_scores_and_any_names(app, score):
    scores = score([FACE, FACE], [FACE, [[0, 0], [10, 0], [500, 5]]])
    scores["results"][0]["predictions"] = r"_$\frac{" + "very" * 20
    alone = [app.draw_ced(scores), app.draw_landmarks(scores)]
    scores["results"] *= 6
    scores["failure_threshold"] = 0.05
    for picture in [*alone, app.draw_ced(scores), app.draw_landmarks(scores)]:
        assert picture.dtype == np.uint8
        assert picture.shape[2] == 3
        assert (picture < 200).any()


def test_report_shows_percents_and_escapes_what_files_say(app, score):
    page = app.report(score({"<script>": [[0, 1], [10, 0], [5, 5]]}, {"<script>": FACE}, normalizer="diagonal"))
    assert "<script>" not in page
    assert "&lt;script&gt;" in page
    assert f"{100 / 3 / np.hypot(10, 5):.2f}" in page
    assert "diagonal of the box" in page


@pytest.fixture(scope="module")
def server(app, tmp_path_factory):
    """The running app's address, its upload folder, its page."""
    folder = tmp_path_factory.mktemp("uploads")
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("GRADIO_TEMP_DIR", str(folder))
        patch.setenv("GRADIO_ANALYTICS_ENABLED", "False")
        page = app.build()
        page.launch(**app.launch_options(), prevent_thread_lock=True, quiet=True)
        yield page.local_url, folder, page
        page.close()
    assert not files_in(folder), "files of visitors are left"


@pytest.fixture(scope="module")
def client(server):
    from gradio_client import Client

    return Client(server[0], verbose=False)


def example(name):
    from gradio_client import handle_file

    return handle_file(str(EXAMPLES / name))


def test_endpoint_scores_the_examples(client, app):
    files = [example("model_a.json"), example("model_b.csv")]
    scores, ced, landmarks, page = client.predict(files, example("references.csv"), api_name="/score")
    expected = app.score_faces(
        [app.read_faces(EXAMPLES / name, name) for name in ("model_a.json", "model_b.csv")],
        app.read_faces(EXAMPLES / "references.csv", "references.csv"),
    )
    assert scores == json.loads(json.dumps(expected))
    assert [result["predictions"] for result in scores["results"]] == ["model_a.json", "model_b.csv"]
    assert [Path(picture).suffix for picture in (ced, landmarks)] == [".png", ".png"]
    assert f"{100 * scores['results'][1]['nme']:.2f}" in page


def test_endpoint_is_described(client):
    endpoints = client.view_api(return_format="dict")["named_endpoints"]
    assert list(endpoints) == ["/score"]
    names = [parameter["parameter_name"] for parameter in endpoints["/score"]["parameters"]]
    assert names[:3] == ["predictions", "references", "normalizer"]
    returned = [value["label"] for value in endpoints["/score"]["returns"]]
    assert returned == ["Scores", "Cumulative error distribution", "Error of each landmark", "Report"]
    assert "Scores predicted facial landmarks" in endpoints["/score"]["description"]


def refused(client, predictions, references, **options):
    from gradio_client.exceptions import AppError

    with pytest.raises(AppError) as error:
        client.predict(predictions, references, **options, api_name="/score")
    assert "Traceback" not in str(error.value)
    return str(error.value)


def test_message_names_the_visitors_file(client, tmp_path):
    from gradio_client import handle_file

    (tmp_path / "mine.json").write_text("Dear all")
    message = refused(client, [handle_file(str(tmp_path / "mine.json"))], example("references.csv"))
    assert message.startswith("mine.json: line 1, column 1 must be JSON")
    assert "a file of predictions must be given" in refused(client, [], example("references.csv"))
    assert "a file of predictions and of references must be given" in refused(client, [], None)
    assert "at most 6 files" in refused(client, [example("model_a.json")] * 7, example("references.csv"))
    assert "not in the list" in refused(
        client, [example("model_a.json")], example("references.csv"), normalizer="ears"
    )


def crafted(path, **extra):
    return {"path": path, "orig_name": "r.csv", "meta": {"_type": "gradio.FileData"}, **extra}


def answer(server, *data):
    """Of the endpoint, to a request that is not the client's."""
    import httpx

    call = httpx.post(f"{server[0]}gradio_api/call/score", json={"data": data})
    return httpx.get(f"{server[0]}gradio_api/call/score/{call.json()['event_id']}").text


def files_in(folder):
    return [file for file in folder.rglob("*") if file.is_file()]


@pytest.mark.parametrize("extra", [{}, {"is_stream": True}])
@pytest.mark.parametrize(
    ("path", "message"),
    [
        ("/etc/passwd", "r.csv must be an upload"),
        (str(SPACE / "nme.py"), "r.csv must be an upload"),
        (str(EXAMPLES / "references.csv"), "r.csv must be an upload"),
        ("nme.py", "r.csv must be an upload"),
        ("{uploads}", "r.csv must be an upload"),
        ("{uploads}/../", "r.csv must be an upload"),
        ("{uploads}/gone.csv", "r.csv must be an upload"),
        ("{uploads}/\0.csv", "r.csv must be an upload"),
        ("/" + "x" * 5000, "r.csv must be an upload"),
        ("", "r.csv must be an upload"),
        ("http://127.0.0.1:9/references.csv", "r.csv must be uploaded, but got an address"),
        ("HTTPS://example.org/references.csv", "r.csv must be"),
    ],
)
def test_request_cannot_name_files_or_addresses(server, client, path, message, extra):
    """As a crafted request would, without the client's own upload; nor in place of a choice or a number."""
    file = crafted(path.replace("{uploads}", str(server[1])), **extra)
    for data in (
        [[file], file, "auto", 0],
        [None, file, "auto", 0],
        [None, None, file, 0],
        [None, None, "auto", file],
    ):
        found = answer(server, *data, 1, 0, 0)
        assert "event: error" in found
        assert message in found
        assert not re.search(f"root:|{ROOT}|{server[1]}", found)


def test_files_are_cleaned_after_requests_that_name_a_folder(server, client):
    from gradio.route_utils import delete_files_created_by_app

    client.predict([example("model_a.json")], example("references.csv"), api_name="/score")
    assert files_in(server[1])
    folder = crafted(str(server[1]))
    for data in ([[folder], folder, "auto"], [None, None, folder]):
        assert "event: error" in answer(server, *data, 0, 1, 0, 0)
    delete_files_created_by_app(server[2], age=None)  # as on schedule
    assert not files_in(server[1])


def test_request_with_text_for_a_number_is_told_which(server):
    assert "first_point must be a number, but got 'one'" in answer(server, None, None, "auto", "one", 1, 0, 0)
    assert "auc_threshold must be a number, but got [5]" in answer(server, None, None, "auto", 0, 1, 0, [5])


def test_names_that_no_answer_can_hold_are_escaped(app, tmp_path):
    (tmp_path / "upload").write_text("[[[0, 0]]]")
    assert app.read_faces(tmp_path / "upload", "\ud800.json").name == "\\ud800.json"


def test_upload_over_the_limit_is_refused(server, app):
    import httpx

    answer = httpx.post(f"{server[0]}gradio_api/upload", files={"files": ("big.json", b" " * (app.MAX_BYTES + 1))})
    assert answer.status_code == 413
    assert not list(server[1].rglob("big.json"))


def test_page_asks_no_other_host(server):
    import httpx

    page = httpx.get(server[0]).text
    config = httpx.get(f"{server[0]}config").json()
    assert config["analytics_enabled"] is False
    assert not config["stylesheets"]
    assert "fonts.googleapis.com" not in page.split("window.gradio_config")[-1]


def test_space_is_complete_without_the_repository():
    """The folder alone is deployed: its own files, and what requirements.txt names."""
    wanted = {line.split(">")[0] for line in (SPACE / "requirements.txt").read_text().split()}
    known = set(sys.stdlib_module_names) | wanted | {file.stem for file in SPACE.glob("*.py")} | {"gradio_client"}
    for file in SPACE.glob("*.py"):
        names = re.findall(r"^(?:import|from) (\w+)", file.read_text(), flags=re.MULTILINE)
        assert set(names) <= known, file.name
    front_matter = (SPACE / "README.md").read_text().split("---\n")[1]
    assert "app_file: app.py" in front_matter
    description = re.search(r"^short_description: (.*)$", front_matter, flags=re.MULTILINE).group(1)
    assert len(description) <= 60


def test_loading_the_metric_does_not_run_the_app(tmp_path):
    folder = tmp_path / "nme"
    shutil.copytree(SPACE, folder, ignore=shutil.ignore_patterns("__pycache__"))
    for file in folder.glob("*.py"):
        if file.name != "nme.py":
            file.write_text("raise SystemExit('executed')")
    metric = evaluate.load(str(folder), cache_dir=str(tmp_path / "cache"))
    assert metric.compute(predictions=[[[0, 1]]], references=[[[0, 0]]], normalizers=[4])["nme"] == 0.25


def test_nothing_is_written_beside_the_app(app):
    app.build()
    assert not list(SPACE.glob("*.pyi"))
