"""The demo as programs meet it: a server of its own, called through gradio_client and by bare HTTP."""

import json
import shutil
import time
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import httpx
import numpy as np
import pytest
import space_load
from gradio_client import Client, handle_file
from gradio_client.exceptions import AppError
from hostile_files import make_bad_photos, make_odd_photos
from PIL import Image
from skimage.data import astronaut
from test_pipeline import make_pipeline
from test_space_deploy import deployed
from transformers import pipeline

from modeling_mtld.detect import CHECKPOINT

BOX = [179.0, 87.0, 272.0, 179.0]  # the astronaut's face, from brows to chin
GONE_AFTER = 4  # seconds


@pytest.fixture(scope="module")
def demo(tmp_path_factory):
    """The address of the demo, as it would be on the Hub, and the folder of its uploads."""
    folder = tmp_path_factory.mktemp("demo")
    for name, file in deployed()["org/mtld"].items():
        (folder / "space" / name).parent.mkdir(parents=True, exist_ok=True)
        shutil.copy(file, folder / "space" / name)
    make_pipeline().save_pretrained(folder / "three")
    make_pipeline().save_pretrained(folder / "broken")
    (folder / "broken" / "model.safetensors").write_bytes(b"no weights")
    listed = ["checkpoints/mtld-r18", str(folder / "three"), str(folder / "broken")]
    environment = {"GRADIO_TEMP_DIR": str(folder / "uploads"), "HF_HUB_OFFLINE": "1"}
    (folder / "uploads").mkdir()
    with space_load.running_demo("--checkpoints", *listed, folder=folder / "space", environment=environment) as (
        url,
        _,
    ):
        yield url, folder / "uploads"


@pytest.fixture(scope="module")
def client(demo, tmp_path_factory):
    return Client(demo[0], verbose=False, download_files=str(tmp_path_factory.mktemp("downloads")))


@pytest.fixture(scope="module")
def photo(tmp_path_factory):
    file = tmp_path_factory.mktemp("photo") / "astronaut.png"
    Image.fromarray(astronaut()).save(file)
    return file


OTHERS = {"detect": [None, "", 0.55], "annotate": [None, "", 0.55], "track": ["", True]}  # arguments after the file


def call(url: str, endpoint: str, file) -> str:
    """What the server streams in answer to a call by bare HTTP with `file` as the first argument."""
    api = f"{url}/gradio_api/call/{endpoint}"
    event = httpx.post(api, json={"data": [file, *OTHERS[endpoint]]}, timeout=60).json()["event_id"]
    return httpx.get(f"{api}/{event}", timeout=60).text


def uploads(folder: Path) -> list[str]:
    return sorted(str(path.relative_to(folder)) for path in folder.rglob("*") if path.is_file())


class TestEndpoints:
    def test_they_are_named_typed_and_documented(self, client):
        endpoints = client.view_api(return_format="dict")["named_endpoints"]
        assert set(endpoints) == {"/detect", "/annotate", "/track", "/checkpoints"}
        types = {entry["parameter_name"]: entry["python_type"]["type"] for entry in endpoints["/detect"]["parameters"]}
        expected = {
            "photo": "filepath",
            "boxes": "None | list[list[float]]",
            "checkpoint": "str",
            "min_score": "None | float",
        }
        assert types == expected
        told = {entry["parameter_name"]: entry["label"] for entry in endpoints["/detect"]["parameters"]}
        assert "pixels of the upright photo; null looks for faces" in told["boxes"] and "handle_file" in told["photo"]
        for entry in endpoints.values():
            assert len(entry["description"]) > 30 and all(len(value["label"]) > 10 for value in entry["parameters"])

    def test_detect_answers_as_the_pipeline_does(self, client, photo):
        find = pipeline("facial-landmark-detection", model=str(CHECKPOINT), trust_remote_code=True, device="cpu")
        for boxes in (None, [BOX], [BOX, [300.0, 300.0, 400.0, 400.0]], []):
            answer = client.predict(handle_file(photo), boxes, api_name="/detect")
            expected = find(str(photo), boxes=boxes)
            assert len(answer) == len(expected)
            for face, other in zip(answer, expected):
                assert [mark["label"] for mark in face["landmarks"]] == [mark["label"] for mark in other["landmarks"]]
                points, others = ([(m["x"], m["y"], m["score"]) for m in f["landmarks"]] for f in (face, other))
                assert (
                    np.abs(np.subtract(points, others)).max() < 1e-3
                )  # another number of threads may round otherwise

    def test_a_checkpoint_of_the_list_is_chosen_by_name(self, client, photo):
        [face] = client.predict(handle_file(photo), [BOX], "three", api_name="/detect")
        assert [mark["label"] for mark in face["landmarks"]] == ["left_eye", "right_eye", "mouth"]

    def test_annotate_draws_on_the_photo(self, client, photo):
        picture = np.asarray(Image.open(client.predict(handle_file(photo), [BOX], api_name="/annotate")))
        scale = picture.shape[0] // 512
        changed = np.abs(picture[::scale, ::scale].astype(int) - astronaut()).sum(axis=2) > 100
        assert changed[80:190, 170:280].any()
        changed[60:200, 150:300] = False
        assert changed.mean() < 0.02

    def test_checkpoints_tell_of_themselves(self, client):
        real, three, broken = client.predict(api_name="/checkpoints")
        assert real["name"] == "mtld-r18" and real["num_landmarks"] == 68 and real["results"]
        assert three["landmark_names"] == ["left_eye", "right_eye", "mouth"] and three["image_size"] == 32
        assert broken == {
            "name": "broken",
            "error": "The checkpoint broken cannot be loaded. The server's log says why.",
        }

    @pytest.mark.parametrize(
        "arguments, message",
        [
            ({"checkpoint": "other"}, "checkpoint must be one of mtld-r18, three, broken, but got 'other'"),
            ({"checkpoint": "/etc"}, "checkpoint must be one of"),
            ({"checkpoint": "broken"}, "The checkpoint broken cannot be loaded"),
            ({"boxes": [[0, 0, 0, 0]]}, "has no area"),
            ({"boxes": [[900, 900, 950, 950]]}, "must overlap its photo of 512 x 512"),
            (
                {"boxes": "0,0,5,5"},
                "boxes must be a list such as [[40, 60, 200, 230]], or null to look for faces, but got",
            ),
            ({"boxes": [[1, 2, 3, 4]] * 101}, "boxes must be 100 at most, but got 101"),
            ({"boxes": [[[1, 2, 3, 4]] * 101]}, "boxes must be 100 at most, but got 101"),
            ({"boxes": [["a", "b", "c", "d"]]}, "must be four numbers"),
            ({"min_score": 7}, "min_score must be a number from 0 to 1, but got 7"),
            ({"min_score": "high"}, "min_score must be a number from 0 to 1"),
        ],
    )
    def test_bad_arguments_are_messages(self, client, photo, arguments, message):
        with pytest.raises(AppError) as caught:
            client.predict(handle_file(photo), **arguments, api_name="/detect")
        assert message in str(caught.value) and "Traceback" not in str(caught.value)


class TestHostileFiles:
    def test_bad_files_are_messages_and_go(self, client, demo, photo, tmp_path):
        before = uploads(demo[1])
        for file, message in make_bad_photos(tmp_path).items():
            with pytest.raises(AppError, match=message):
                client.predict(handle_file(file), api_name="/detect")
        playlist = b"#EXTM3U\n#EXT-X-TARGETDURATION:1\n#EXTINF:1,\nfile:///etc/passwd\n#EXT-X-ENDLIST\n"
        videos = {"text.mp4": b"no video", "empty.webm": b"", "photo.mov": photo.read_bytes(), "list.mp4": playlist}
        for name, data in videos.items():
            (tmp_path / name).write_bytes(data)
            with pytest.raises(AppError, match="This video cannot be processed"):
                client.predict(handle_file(tmp_path / name), api_name="/track")
        time.sleep(GONE_AFTER)
        assert uploads(demo[1]) == before

    def test_odd_photos_are_answered(self, client, tmp_path):
        for file in make_odd_photos(tmp_path):
            assert len(client.predict(handle_file(file), [BOX], api_name="/detect")) == 1

    def test_a_file_that_is_too_large_is_refused(self, demo, tmp_path):
        data = b"\0" * (101 * 2**20)
        answer = httpx.post(f"{demo[0]}/gradio_api/upload", files={"files": ("large.jpg", data)}, timeout=60)
        assert answer.status_code == 413


class TestHostileRequests:
    FILE = {"meta": {"_type": "gradio.FileData"}, "orig_name": "a.jpg"}

    @pytest.mark.parametrize("endpoint", ["detect", "annotate", "track"])
    @pytest.mark.parametrize("with_meta", [True, False])
    def test_no_file_outside_is_read(self, demo, endpoint, with_meta, photo):
        own = self.FILE if with_meta else {}
        for path in ("/etc/passwd", str(photo), f"{demo[1]}/../three/config.json", "checkpoints.txt", "app.py"):
            answer = call(demo[0], endpoint, {"path": path, **own})
            assert "event: error" in answer and "Traceback" not in answer and "root:" not in answer
            assert with_meta or "must be an uploaded file, and still there" in answer
        assert Path(photo).exists()

    @pytest.mark.parametrize(
        "path", ["/etc/passwd", "../../etc/passwd", "app.py", "checkpoints.txt", "checkpoints/mtld-r18/config.json"]
    )
    def test_no_file_outside_is_served(self, demo, path):
        folder = str(Path(space_load.ROOT) / "space")
        for name in (path, f"{folder}/{path}", f"{demo[1]}/../{path}", f"{demo[1]}/%2e%2e/{path}"):
            assert httpx.get(f"{demo[0]}/gradio_api/file={name}").status_code in (403, 404)

    def test_no_address_is_fetched(self, demo):
        for address in ("https://example.com/photo.jpg", demo[0], "http://169.254.169.254/latest/meta-data"):
            answer = call(demo[0], "detect", {"path": address, **self.FILE})
            assert "event: error" in answer and "fetches no addresses" in answer

    def test_a_folder_is_no_file(self, demo):
        answer = call(demo[0], "detect", {"path": str(demo[1]), **self.FILE})
        assert "event: error" in answer and "photo must be an uploaded file" in answer

    @pytest.mark.parametrize("value", [None, "text", 3, [], {}, {"path": {}}, {"path": ""}, {"url": "data:,x"}])
    def test_any_value_instead_of_a_photo_is_a_message(self, demo, value):
        answer = call(demo[0], "detect", value)
        assert "event: error" in answer and "photo must be an uploaded file, but got none" in answer

    def test_it_still_answers(self, client, photo):
        assert len(client.predict(handle_file(photo), api_name="/detect")) == 1


class TestLoad:
    def test_many_clients_get_the_answers_of_one(self, demo, photo, tmp_path):
        photos = []
        for index in range(16):
            photos.append(tmp_path / f"{index}.png")
            Image.fromarray(np.roll(astronaut(), (index, -index), axis=(0, 1))).save(photos[-1])
        single, _ = space_load.call_all(demo[0], photos, 1)
        many, _ = space_load.call_all(demo[0], photos, 8)
        assert many == single
        assert len({json.dumps(answer) for answer in many}) == len(photos)

    def test_the_queue_tells_the_place_in_it(self, demo, photo):
        clients = [Client(demo[0], verbose=False) for _ in range(6)]
        with ThreadPoolExecutor(6) as pool:
            jobs = list(pool.map(lambda one: one.submit(handle_file(photo), api_name="/detect"), clients))
        places = set()
        while not all(job.done() for job in jobs):
            places |= {job.status().rank for job in jobs}
            time.sleep(0.02)
        assert places - {None, 0}
        assert all(len(job.result()) == 1 for job in jobs)

    def test_webcams_keep_no_photo_waiting(self, demo, client, photo):
        config = httpx.get(f"{demo[0]}/config").json()
        [stream] = [
            one["id"] for one in config["dependencies"] if any("stream" in target for target in one["targets"])
        ]
        for session in ("one", "two", "three"):  # none of which sends a frame
            data = {"fn_index": stream, "data": [None, None, "mtld-r18", True], "session_hash": session}
            assert httpx.post(f"{demo[0]}/gradio_api/queue/join", json=data).status_code == 200
        time.sleep(1)
        assert len(client.submit(handle_file(photo), [BOX], api_name="/detect").result(timeout=20)) == 1
