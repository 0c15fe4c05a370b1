"""The static page in a real Chromium: a network of the repository, ONNX Runtime Web from npm.

SCREENSHOTS=FOLDER keeps pictures of the page, to look at.
"""

import json
import os
import shutil
import subprocess
import threading
from pathlib import Path

import numpy as np
import pytest
from PIL import Image
from playwright.sync_api import expect, sync_playwright
from skimage.data import astronaut

from modeling_mtld import export
from modeling_mtld.detect import CHECKPOINT, load_pipeline
from modeling_mtld.drawing_mtld import landmark_points

WEB = Path(__file__).resolve().parents[2] / "space" / "web"
CHROMIUM = shutil.which("chromium") or shutil.which("chromium-browser") or shutil.which("google-chrome")
YUNET = Path(os.environ.get("YUNET", WEB.parents[2] / "shared" / "weights" / "face_detection_yunet_2023mar.onnx"))
FLAGS = ["--no-sandbox", "--disable-gpu", "--use-fake-ui-for-media-stream", "--use-fake-device-for-media-stream"]
SIZES = {"desktop": {"width": 1280, "height": 900}, "phone": {"width": 390, "height": 844}}
WAIT = 120_000  # milliseconds, for what the network has to work on

pytestmark = [
    pytest.mark.skipif(CHROMIUM is None, reason="needs Chromium"),
    pytest.mark.skipif(shutil.which("npm") is None, reason="needs npm"),
    pytest.mark.skipif(not YUNET.is_file(), reason="needs YUNET=face_detection_yunet_2023mar.onnx"),
]


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    """The page as its README makes it."""
    folder = tmp_path_factory.mktemp("page") / "web"
    shutil.copytree(WEB, folder, ignore=shutil.ignore_patterns("model", "node_modules", "__pycache__"))
    assert export.main(["--half", "--detector", str(YUNET), str(folder / "model")]) == 0
    subprocess.run(["npm", "install", "--prefix", folder, "--no-audit", "--no-fund"], check=True, timeout=300)
    return folder


@pytest.fixture(scope="module")
def address(folder):
    namespace = {"__name__": "serve", "__file__": str(folder / "serve.py")}
    exec((folder / "serve.py").read_text(encoding="utf-8"), namespace)
    server = namespace["serve"](0)
    threading.Thread(target=server.serve_forever, daemon=True).start()
    yield f"http://127.0.0.1:{server.server_port}"
    server.shutdown()


@pytest.fixture(scope="module")
def browser(tmp_path_factory):
    """Its camera shows the astronaut."""
    camera = tmp_path_factory.mktemp("camera") / "face.mjpeg"
    Image.fromarray(astronaut()).crop((96, 0, 416, 240)).resize((640, 480)).save(camera, "JPEG")
    with sync_playwright() as playwright:
        flags = [*FLAGS, f"--use-file-for-fake-video-capture={camera}"]
        chromium = playwright.chromium.launch(executable_path=CHROMIUM, args=flags)
        yield chromium
        chromium.close()


@pytest.fixture(params=SIZES)
def page(request, browser, address):
    """The page, ready. Requests of other hosts and errors of its scripts fail the test."""
    context = browser.new_context(viewport=SIZES[request.param], permissions=["camera"])
    page, faults = context.new_page(), []
    page.on("request", lambda asked: asked.url.startswith((address, "blob:")) or faults.append(asked.url))
    page.on("pageerror", lambda error: faults.append(str(error)))
    page.goto(f"{address}/index.html")
    expect(page.locator("#status")).to_contain_text("Ready", timeout=WAIT)
    yield page
    if screenshots := os.environ.get("SCREENSHOTS"):
        page.screenshot(path=f"{screenshots}/{request.node.name}.png", full_page=True)
    width = page.evaluate("document.documentElement.scrollWidth")
    context.close()
    assert width <= SIZES[request.param]["width"] and faults == []


def saved_faces(page) -> list[dict]:
    with page.expect_download() as download:
        page.locator("#save").click()
    return json.loads(Path(download.value.path()).read_text(encoding="utf-8"))


def test_a_photo_gives_the_pipelines_landmarks(page, tmp_path):
    Image.fromarray(astronaut()).save(tmp_path / "photo.png")
    page.locator("#file").set_input_files(tmp_path / "photo.png")
    expect(page.locator("#status")).to_have_text("1 face", timeout=WAIT)
    expect(page.locator("#times")).to_contain_text(" ms ")
    assert page.evaluate("crossOriginIsolated")
    (face,) = saved_faces(page)
    detect = load_pipeline(str(CHECKPOINT), "cpu")
    (expected,) = detect(astronaut(), detector=str(YUNET))
    assert [mark["label"] for mark in face["landmarks"]] == [mark["label"] for mark in expected["landmarks"]]
    distances = np.linalg.norm(landmark_points(face) - landmark_points(expected), axis=1)
    assert distances.mean() < 0.005 * (expected["box"]["xmax"] - expected["box"]["xmin"])
    assert face["score"] == pytest.approx(expected["score"], abs=0.02)


def test_photos_without_a_face_and_other_files_get_one_line(page, tmp_path):
    Image.new("RGB", (300, 200), "gray").save(tmp_path / "wall.png")
    (tmp_path / "notes.png").write_text("no picture")
    page.locator("#file").set_input_files(tmp_path / "notes.png")
    expect(page.locator("#status")).to_have_text("notes.png must be a picture that this browser reads", timeout=WAIT)
    page.locator("#file").set_input_files(tmp_path / "wall.png")
    expect(page.locator("#status")).to_have_text("No face was found.", timeout=WAIT)
    expect(page.locator("#save")).to_be_hidden()


def test_the_camera_is_followed_until_it_is_stopped(page):
    page.locator("#camera").click()
    expect(page.locator("#status")).to_have_text("1 face", timeout=WAIT)
    expect(page.locator("#camera")).to_have_text("Stop the camera")
    page.wait_for_timeout(2000)
    expect(page.locator("#status")).to_have_text("1 face")
    page.locator("#camera").click()
    expect(page.locator("#camera")).to_have_text("Start the camera")
    assert page.evaluate("document.getElementById('video').srcObject") is None


def test_a_missing_network_is_named(browser, address):
    page = browser.new_page()
    page.route("**/model.onnx", lambda route: route.fulfill(status=404))
    page.goto(f"{address}/index.html")
    expect(page.locator("#status")).to_contain_text("model/model.onnx is missing", timeout=WAIT)
    expect(page.locator("#file")).to_be_disabled()
    page.close()
