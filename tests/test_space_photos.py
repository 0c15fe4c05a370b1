"""What the demo does with a visitor's photo, without the page around it."""

import shutil
from pathlib import Path
from types import SimpleNamespace

import faces
import numpy as np
import pytest
import uploads
from hostile_files import make_bad_photos, make_odd_photos
from skimage.data import astronaut, coffee

from modeling_mtld.detect import CHECKPOINT, load_pipeline

BOX = [179.0, 87.0, 272.0, 179.0]  # the astronaut's face, from brows to chin


@pytest.fixture(scope="module")
def find():
    return load_pipeline(str(CHECKPOINT), "cpu")


@pytest.fixture
def folder(tmp_path, monkeypatch):
    """Where uploads lie; what is of no use is removed at once."""
    monkeypatch.setenv("GRADIO_TEMP_DIR", str(tmp_path / "uploads"))
    monkeypatch.setattr(uploads, "discard", uploads._remove)
    (tmp_path / "uploads").mkdir()
    return tmp_path / "uploads"


def upload(file: Path, folder: Path) -> dict:
    """As Gradio hands it on: in a folder of its own, with the visitor's name for it."""
    target = folder / file.stem.strip("<>/") / "file"
    target.parent.mkdir()
    shutil.copy(file, target)
    return {"path": str(target), "orig_name": file.name, "meta": {"_type": "gradio.FileData"}}


class TestReading:
    def test_bad_files_give_a_message_and_are_removed(self, folder, tmp_path, find):
        for file, message in make_bad_photos(tmp_path).items():
            payload = upload(file, folder)
            with pytest.raises(ValueError, match=message) as caught:
                uploads.read_photo(payload, find)
            assert "\n" not in str(caught.value) and str(folder) not in str(caught.value)
            assert not Path(payload["path"]).exists()
        assert not list(folder.iterdir())

    def test_odd_pictures_are_read_upright_with_a_note(self, folder, tmp_path, find):
        for file, note in make_odd_photos(tmp_path).items():
            rgb, notes = uploads.read_photo(upload(file, folder), find)
            assert rgb.shape == (512, 512, 3) and rgb.dtype == np.uint8
            assert np.abs(rgb.astype(float).mean(axis=2) - astronaut().mean(axis=2)).mean() < 12
            assert note in notes and bool(note) == bool(notes)

    @pytest.mark.parametrize("payload", [None, {}, {"path": None}, {"path": ["a"]}, "text", 3])
    def test_nothing_is_a_message(self, payload, folder, find):
        with pytest.raises(ValueError, match="photo must be an uploaded file, but got none"):
            uploads.read_photo(payload, find)

    def test_no_file_beside_the_uploads_is_read(self, folder, tmp_path, find):
        secret = tmp_path / "secret.png"
        make_odd_photos(tmp_path)
        shutil.copy(tmp_path / "palette.png", secret)
        (folder / "link.png").symlink_to(secret)
        for path in (str(secret), f"{folder}/../secret.png", f"{folder}/link.png", "/etc/passwd", str(folder)):
            with pytest.raises(ValueError, match="photo must be an uploaded file, and still there"):
                uploads.read_photo({"path": path, "meta": {"_type": "gradio.FileData"}}, find)
        assert secret.exists()

    def test_a_frame_of_a_webcam(self, folder, find):
        assert uploads.read_frame(None, find) is None
        bad = ["data:image/png;base64,", "data:image/png;base64,!!", "data:image/png;base64,aGVsbG8="]
        for url in bad:
            with pytest.raises(ValueError, match="The webcam's picture cannot be read"):
                uploads.read_frame({"url": url}, find)


class TestSweeping:
    def test_old_files_and_empty_folders_go_and_examples_stay(self, folder):
        old, example, folder_of_old = folder / "a" / "old.jpg", folder / "b" / "example.jpg", folder / "a"
        for file in (old, example):
            file.parent.mkdir()
            file.write_text("picture")
        page = SimpleNamespace(blocks={1: SimpleNamespace(keep_in_cache={str(example)})})
        uploads.sweep(page, age=60)
        assert old.exists()
        uploads.sweep(page, age=-1)
        assert example.exists() and not old.exists() and not folder_of_old.exists()

    def test_what_cannot_be_removed_stops_nothing(self, folder, monkeypatch):
        for name in ("stuck", "other"):
            (folder / name).write_text("picture")
        unlink = Path.unlink

        def fail(path, *_, **__):
            if path.name == "stuck":
                raise PermissionError
            unlink(path)

        monkeypatch.setattr(Path, "unlink", fail)
        uploads.sweep(SimpleNamespace(blocks={}), age=-1)
        assert [path.name for path in folder.iterdir()] == ["stuck"]


class TestFaces:
    def test_a_rough_box_is_corrected(self, find):
        rough = [BOX[0] - 15, BOX[1] - 20, BOX[2] + 10, BOX[3] + 5]
        face = faces.face_in_box(find, astronaut(), rough)
        exact = find(astronaut(), boxes=[BOX])[0]
        gaps = [np.hypot(a["x"] - b["x"], a["y"] - b["y"]) for a, b in zip(face["landmarks"], exact["landmarks"])]
        assert face["given"] and np.mean(gaps) < 2

    def test_the_slider_hides_found_faces_and_no_given_ones(self):
        found = [{"score": 0.9}, {"score": 0.5}, {"score": 0.2, "given": True}]
        assert faces.filter_faces(found, 0.55) == [found[0], found[2]]

    def test_a_box_set_anew_replaces_the_face_there(self):
        def face(x0, x1):
            return {"box": {"xmin": x0, "ymin": 0, "xmax": x1, "ymax": 100}}

        assert faces.merge_faces([face(0, 100), face(300, 400)], [face(10, 105)]) == [face(300, 400), face(10, 105)]
        assert len(faces.merge_faces([face(0, 100)], [face(80, 180)])) == 2

    def test_points_go_to_the_picture_and_back(self):
        view = faces.View(left=10, top=20, scale=2)
        assert view.to_picture(10, 20) == (0.5, 0.5)  # the centre of a pixel that is two wide now
        assert view.to_photo(*view.to_picture(33.25, 47)) == pytest.approx((33.25, 47))

    def test_tables(self):
        mark = {"label": "jaw, 0", "x": 1.2345, "y": 2, "score": 0.98765}
        given = [{"score": 0.9, "box": {}, "landmarks": [mark], "given": True}]
        assert faces.rows(given, digits=1) == [[1, "jaw, 0", 1.2, 2, 0.988]]
        assert faces.as_csv(given) == 'face,landmark,x,y,score\n1,"jaw, 0",1.234,2,0.988\n'
        assert "given" not in faces.as_json(given) and "1.2345" in faces.as_json(given)

    def test_no_face_in_a_cup(self, find):
        assert faces.filter_faces(faces.find_faces(find, coffee()), faces.MIN_SCORE) == []
