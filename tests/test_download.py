import hashlib
import http.server
import io
import tarfile
import threading
import zipfile
from dataclasses import replace

import datasets
import pytest

from dataset_scripts import download as download_module
from dataset_scripts import load_faces
from dataset_scripts.__main__ import main
from dataset_scripts.benchmark_facts import Archive
from dataset_scripts.benchmarks import BENCHMARKS
from dataset_scripts.download import download
from dataset_scripts.face_builder import FaceBuilder

LIST = "WFLW_annotations/list_98pt_rect_attr_train_test/list_98pt_rect_attr_test.txt"
PHOTO = "WFLW_images/0--Parade/a.jpg"


class Server(http.server.ThreadingHTTPServer):
    """Serves `files`, bytes by path; of those in `cut` only that many bytes arrive; `asked` counts the GETs."""

    def __init__(self):
        super().__init__(("127.0.0.1", 0), Handler)
        self.files, self.cut, self.asked = {}, {}, []
        self.address = f"http://127.0.0.1:{self.server_port}"


class Handler(http.server.BaseHTTPRequestHandler):
    def do_HEAD(self):
        content = self.server.files.get(self.path)
        self.send_response(200 if content is not None else 404)
        self.send_header("Content-Length", str(len(content or b"")))
        self.end_headers()
        return content or b""

    def do_GET(self):
        content = self.do_HEAD()
        self.server.asked.append(self.path)
        self.wfile.write(content[: self.server.cut.get(self.path)])

    def log_message(self, *arguments):
        pass


@pytest.fixture
def server(monkeypatch):
    monkeypatch.setattr(datasets.config, "HF_HUB_OFFLINE", False)
    monkeypatch.setenv("NO_PROXY", "127.0.0.1")
    monkeypatch.setenv("no_proxy", "127.0.0.1")
    with Server() as server:
        thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.01})
        thread.start()
        yield server
        server.shutdown()
        thread.join()


def tar_of(files):
    stored = io.BytesIO()
    with tarfile.open(fileobj=stored, mode="w:gz") as archive:
        for name, content in files.items():
            member = tarfile.TarInfo(name)
            member.size = len(content)
            archive.addfile(member, io.BytesIO(content))
    return stored.getvalue()


def zip_of(files):
    stored = io.BytesIO()
    with zipfile.ZipFile(stored, "w") as archive:
        for name, content in files.items():
            archive.writestr(name, content)
    return stored.getvalue()


def served(server, name, contents, archives=None):
    """The benchmark with its archives at the server, where they hold `contents`, one each."""
    benchmark = BENCHMARKS[name]
    archives = archives or benchmark.archives
    server.files = {f"/{archive.filename}": content for archive, content in zip(archives, contents, strict=True)}
    return replace(
        benchmark,
        archives=tuple(
            replace(
                archive,
                url=f"{server.address}/{archive.filename}",
                md5=archive.md5 and hashlib.md5(content).hexdigest(),
            )
            for archive, content in zip(archives, contents)
        ),
    )


@pytest.fixture
def wflw(server):
    return served(server, "wflw", [tar_of({LIST: b"rows", "README": b"text"}), tar_of({PHOTO: b"photo"})])


def everything_in(folder):
    return sorted(path.relative_to(folder).as_posix() for path in folder.rglob("*") if path.is_file())


# What is fetched -------------------------------------------------------------------------------------------------


def test_wflw_is_unpacked_where_its_builder_looks(server, wflw, tmp_path):
    assert download(wflw, tmp_path / "new" / "wflw") == ["WFLW_annotations.tar.gz", "WFLW_images.tar.gz"]
    assert everything_in(tmp_path) == [f"new/wflw/{LIST}", f"new/wflw/{PHOTO}"]
    assert (tmp_path / "new" / "wflw" / LIST).read_bytes() == b"rows"
    asked = list(server.asked)
    assert download(wflw, tmp_path / "new" / "wflw") == [] and server.asked == asked


def test_only_what_is_missing_is_fetched(server, wflw, tmp_path):
    (tmp_path / "WFLW_images").mkdir()
    assert download(wflw, str(tmp_path)) == ["WFLW_annotations.tar.gz"]
    assert everything_in(tmp_path) == [LIST]


@pytest.mark.parametrize("folder", ["", "COFW_color/common/"])
def test_cofw_whatever_folder_the_zip_has(server, tmp_path, folder):
    files = {f"{folder}COFW_{split}_color.mat": split.encode() for split in ("train", "test")}
    noise = {"__MACOSX/._COFW_test_color.mat": b"x"}
    assert download(served(server, "cofw", [zip_of(files | noise)]), tmp_path) == ["COFW_color.zip"]
    assert everything_in(tmp_path) == sorted(files)


def test_cofw68_takes_the_photos_of_cofw_as_well(server, tmp_path):
    points = "cofw68-benchmark-master/COFW68_Data/test_annotations/1_points.mat"
    cofw = zip_of({"COFW_train_color.mat": b"train", "COFW_test_color.mat": b"test"})
    download(served(server, "cofw68", [zip_of({points: b"points"}), cofw]), tmp_path)
    assert everything_in(tmp_path) == ["COFW_test_color.mat", points]


def test_aflw_is_a_plain_file_and_its_photos_need_a_form(server, tmp_path, monkeypatch, capsys):
    benchmark = served(server, "aflw", [b"MATLAB 5.0 MAT-file"])
    monkeypatch.setitem(BENCHMARKS, "aflw", benchmark)
    assert main(["aflw", "--data_dir", str(tmp_path), "--download"]) == 0
    assert everything_in(tmp_path) == ["AFLWinfo_release.mat"]
    fetched, rest = capsys.readouterr().out.splitlines()
    assert "fetched AFLWinfo_release.mat" in fetched
    assert "needs a form" in rest and benchmark.homepage in rest and benchmark.layout in rest


def test_official_addresses():
    archives = [archive for benchmark in BENCHMARKS.values() for archive in benchmark.archives]
    assert {archive.filename for archive in archives} == {
        "WFLW_annotations.tar.gz",
        "WFLW_images.tar.gz",
        "COFW_color.zip",
        "cofw68-benchmark-master.zip",
        "AFLWinfo_release.mat",
        "MERL-RAV_dataset-master.zip",
    }
    assert all(archive.url.startswith(("https://", "http://mmlab.ie.cuhk.edu.hk/")) for archive in archives)
    assert all(not archive.md5 or len(archive.md5) == 32 for archive in archives)


# What goes wrong: one line with the address, and nothing left -----------------------------------------------------


def refused(benchmark, folder, message):
    """`download` raises `message` on one line with the address of the last archive, and nothing of it is left."""
    with pytest.raises(ValueError, match=message) as refusal:
        download(benchmark, folder)
    text = str(refusal.value)
    assert benchmark.archives[-1].url in text and "\n" not in text
    assert not list(folder.glob(".*")) and not (folder / "WFLW_images").exists()


def test_connection_that_breaks_off(server, wflw, tmp_path):
    server.cut = {"/WFLW_images.tar.gz": 40}
    refused(wflw, tmp_path, "WFLW_images.tar.gz could not be fetched from")
    assert everything_in(tmp_path) == [LIST]  # the archive before it was complete
    server.cut = {}
    assert download(wflw, tmp_path) == ["WFLW_images.tar.gz"]
    assert everything_in(tmp_path) == [LIST, PHOTO]


@pytest.mark.parametrize("name", ["wflw", "cofw"])
def test_archive_that_is_damaged(server, tmp_path, name):
    whole = zip_of({"COFW_train_color.mat": b"x" * 999}) if name == "cofw" else tar_of({PHOTO: b"photo" * 99})
    archives = [replace(BENCHMARKS[name].archives[-1], md5=None)]
    refused(served(server, name, [whole[:-30]], archives), tmp_path, "no archive|damaged")
    assert everything_in(tmp_path) == []


def test_wrong_md5(server, tmp_path):
    cofw = served(server, "cofw", [zip_of({"COFW_train_color.mat": b"", "COFW_test_color.mat": b""})])
    server.files = {"/COFW_color.zip": b"PK another"}
    refused(cofw, tmp_path, "must give COFW_color.zip with the md5 sum .*, but gave 10 bytes with")
    assert everything_in(tmp_path) == []


@pytest.mark.parametrize("page", [b"<!DOCTYPE html><html>Quota exceeded</html>", b"\n <html>", b'{"status": 403}'])
@pytest.mark.parametrize("name", ["cofw", "aflw"])
def test_web_page_instead_of_the_file(server, tmp_path, name, page):
    refused(served(server, name, [page]), tmp_path, "but gave a web page; open it in a browser")
    assert everything_in(tmp_path) == []


def test_empty_file_and_other_file(server, tmp_path):
    archive = replace(BENCHMARKS["cofw"].archives[0], md5=None)
    refused(served(server, "cofw", [b""], [archive]), tmp_path, "but gave an empty file")
    refused(served(server, "cofw", [b"text"], [archive]), tmp_path, "but gave a file that is no archive")
    content = zip_of({"other.txt": b"", "COFW_test_color.mat": b""})
    refused(
        served(server, "cofw", [content], [archive]),
        tmp_path,
        "must give an archive with COFW_train_color.mat, but gave one with COFW_test_color.mat, other.txt",
    )
    assert everything_in(tmp_path) == []


@pytest.mark.parametrize("pack", [tar_of, zip_of])
def test_archive_with_paths_that_leave_the_folder(server, tmp_path, pack):
    outside = tmp_path / "absolute.txt"
    names = ["../evil.txt", "../../../../evil.txt", str(outside), "WFLW_images/../../evil.txt"]
    content = pack({PHOTO: b"photo"} | dict.fromkeys(names, b"evil"))
    archive = Archive("", "WFLW_images.tar.gz" if pack is tar_of else "WFLW_images.zip", ("WFLW_images",))
    download(served(server, "wflw", [content], [archive]), tmp_path / "a" / "b" / "wflw")
    assert not [name for name in everything_in(tmp_path) if not name.startswith("a/b/wflw/WFLW_images/")]


def test_archive_with_a_link_that_leaves_the_folder(server, tmp_path):
    stored = io.BytesIO()
    with tarfile.open(fileobj=stored, mode="w:gz") as archive:
        link = tarfile.TarInfo("WFLW_images/away")
        link.type, link.linkname = tarfile.SYMTYPE, str(tmp_path / "outside")
        archive.addfile(link)
        member = tarfile.TarInfo("WFLW_images/away/evil.txt")
        archive.addfile(member, io.BytesIO(b""))
    (tmp_path / "outside").mkdir()
    benchmark = served(server, "wflw", [stored.getvalue()], [BENCHMARKS["wflw"].archives[1]])
    download(benchmark, tmp_path / "wflw")
    assert not list((tmp_path / "outside").iterdir())
    assert not [path for path in (tmp_path / "wflw").rglob("*") if path.is_symlink()]


def test_address_that_is_gone_and_server_that_is_gone(server, wflw, tmp_path):
    del server.files["/WFLW_images.tar.gz"]
    refused(wflw, tmp_path, "could not be fetched from .*404")
    gone = replace(wflw, archives=(replace(wflw.archives[1], url="http://127.0.0.1:9/WFLW_images.tar.gz"),))
    refused(gone, tmp_path, "could not be fetched from http://127.0.0.1:9/.*: .*Cannot connect")


def test_silent_server(server, wflw, tmp_path, monkeypatch):
    monkeypatch.setattr(download_module, "_TIMEOUT", download_module.aiohttp.ClientTimeout(sock_read=0.2))
    release = threading.Event()
    monkeypatch.setattr(Handler, "do_GET", lambda handler: (handler.do_HEAD(), release.wait(5)))
    refused(replace(wflw, archives=wflw.archives[1:]), tmp_path, "could not be fetched from .*: .")
    release.set()


def test_offline_mode(wflw, tmp_path, monkeypatch):
    monkeypatch.setattr(datasets.config, "HF_HUB_OFFLINE", True)
    refused(replace(wflw, archives=wflw.archives[1:]), tmp_path, "could not be fetched from .*: Offline mode")


def test_interruption_leaves_what_was_complete(server, wflw, tmp_path, monkeypatch, capsys):
    def interrupted(archive, file):
        assert list(tmp_path.glob(".download-*"))
        raise KeyboardInterrupt

    monkeypatch.setitem(BENCHMARKS, "wflw", wflw)
    monkeypatch.setattr(download_module, "_check", interrupted)
    assert main(["wflw", "--data_dir", str(tmp_path), "--download"]) == 130
    assert capsys.readouterr().err.splitlines()[-1] == "error: interrupted"
    assert list(tmp_path.iterdir()) == []


def test_nothing_is_overwritten(server, wflw, tmp_path):
    (tmp_path / "WFLW_annotations").mkdir()
    (tmp_path / "WFLW_annotations" / "mine.txt").write_text("mine")
    with pytest.raises(ValueError, match="WFLW_annotations must be complete or not be there.*move it away"):
        download(wflw, tmp_path)
    assert everything_in(tmp_path) == ["WFLW_annotations/mine.txt"]


# Command line and messages ---------------------------------------------------------------------------------------


def test_command_line(server, wflw, tmp_path, monkeypatch, capsys):
    monkeypatch.setitem(BENCHMARKS, "wflw", wflw)
    command = ["wflw", "--data_dir", str(tmp_path), "--download"]
    assert main(command) == 0
    assert "fetched WFLW_annotations.tar.gz, WFLW_images.tar.gz" in capsys.readouterr().out
    assert main(command) == 0
    assert "all files that can be fetched exist" in capsys.readouterr().out


@pytest.mark.parametrize("name", ["300w", "aflw21"])
def test_data_set_behind_a_form(tmp_path, capsys, name):
    assert main([name, "--data_dir", str(tmp_path / "raw"), "--download"]) == 2
    (error,) = capsys.readouterr().err.splitlines()
    benchmark = BENCHMARKS[name]
    for fact in ("form", benchmark.homepage, benchmark.download, benchmark.layout, str(tmp_path / "raw")):
        assert fact in error
    assert not (tmp_path / "raw").exists()


def test_data_dir_that_is_a_file(tmp_path, capsys):
    (tmp_path / "raw").write_text("")
    assert main(["wflw", "--data_dir", str(tmp_path / "raw"), "--download"]) == 2
    assert "data_dir must be a folder" in capsys.readouterr().err


def test_command_line_without_anything_to_do(tmp_path, capsys):
    assert main(["wflw", "--data_dir", str(tmp_path)]) == 2
    assert "--output_dir must be given" in capsys.readouterr().err


def test_messages_name_the_command(tmp_path):
    (tmp_path / "a b").mkdir()
    missing = f"`python -m dataset_scripts wflw --data_dir {tmp_path / 'none'} --download` fetches WFLW_annotations"
    for data_dir, text in ((tmp_path / "none", missing), (tmp_path / "a b", f"'{tmp_path / 'a b'}' --download`")):
        with pytest.raises(ValueError) as refusal:
            load_faces("wflw", data_dir, "test")
        assert text in str(refusal.value)
    with pytest.raises(ValueError, match="--data_dir DIR --download` fetches COFW_color.zip"):
        load_faces("cofw", None, "test")
    with pytest.raises(ValueError) as refusal:
        load_faces("300w", tmp_path / "none", "train")
    assert "--download" not in str(refusal.value) and BENCHMARKS["300w"].homepage in str(refusal.value)


def test_message_of_another_layout_names_the_command(tmp_path):
    class Empty(FaceBuilder):
        BENCHMARK = BENCHMARKS["cofw"]

        @classmethod
        def list_sources(cls, root):
            return {"test": []}

    (tmp_path / "notes.txt").touch()
    with pytest.raises(ValueError, match="none of these is in .*--download` fetches COFW_color.zip"):
        Empty(data_dir=str(tmp_path))
