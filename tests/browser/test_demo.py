"""The demo in a real Chromium, on a desktop and on a phone.

SCREENSHOTS=FOLDER keeps pictures of the pages, to look at.
"""

import base64
import io
import os
import shutil

import numpy as np
import pytest
import space_load
from hostile_files import make_bad_photos
from PIL import Image, ImageDraw
from playwright.sync_api import expect, sync_playwright
from skimage.data import astronaut
from test_pipeline import make_pipeline

from modeling_mtld.detect import CHECKPOINT

CHROMIUM = shutil.which("chromium") or shutil.which("chromium-browser") or shutil.which("google-chrome")
FLAGS = "--no-sandbox --disable-gpu --disable-quic --disable-background-networking --disable-component-update".split()
WEBCAM = ["--use-fake-ui-for-media-stream", "--use-fake-device-for-media-stream"]
SIZES = {"desktop": {"width": 1280, "height": 900}, "phone": {"width": 390, "height": 844}}
WAIT = 60_000  # milliseconds, for what the network has to work on

pytestmark = pytest.mark.skipif(CHROMIUM is None, reason="needs Chromium")


@pytest.fixture(scope="module")
def address(tmp_path_factory):
    folder = tmp_path_factory.mktemp("browser")
    make_pipeline().save_pretrained(folder / "three")
    make_pipeline().save_pretrained(folder / "broken")
    (folder / "broken" / "model.safetensors").write_bytes(b"no weights")
    listed = [str(CHECKPOINT), str(folder / "three"), str(folder / "broken")]
    with space_load.running_demo("--checkpoints", *listed, environment={"HF_HUB_OFFLINE": "1"}) as (url, _):
        yield url


@pytest.fixture(scope="module")
def webcam(tmp_path_factory):
    """What Chromium's webcam shows: the astronaut, as motion JPEG."""
    folder = tmp_path_factory.mktemp("webcam")
    Image.fromarray(astronaut()).crop((96, 0, 416, 240)).resize((640, 480)).save(folder / "face.mjpeg", "JPEG")
    return folder / "face.mjpeg"


@pytest.fixture(scope="module")
def browser(webcam):
    with sync_playwright() as playwright:
        flags = [*FLAGS, *WEBCAM, f"--use-file-for-fake-video-capture={webcam}"]
        chromium = playwright.chromium.launch(executable_path=CHROMIUM, args=flags)
        yield chromium
        chromium.close()


@pytest.fixture(params=SIZES)
def page(request, browser, address):
    """The open page. What it asks of other hosts, and errors in its console, fail the test."""
    context = browser.new_context(viewport=SIZES[request.param], permissions=["camera"])
    page, foreign = context.new_page(), []
    page.on("request", lambda asked: asked.url.startswith(("http", "ws")) and foreign.append(asked.url))
    page.goto(address)
    expect(page.locator("#card")).to_contain_text("68 landmarks", timeout=WAIT)
    yield page
    width = page.evaluate("document.documentElement.scrollWidth")
    if folder := os.environ.get("SCREENSHOTS"):
        page.screenshot(path=f"{folder}/{request.node.name}.png", full_page=True)
    context.close()
    assert width <= SIZES[request.param]["width"]
    assert [url for url in foreign if not url.startswith((address, address.replace("http", "ws")))] == []


def pick_example(page):
    page.get_by_role("button", name="astronaut.jpg").or_(page.locator(".gallery-item")).first.click()
    expect(page.locator("#status")).to_contain_text("1 face.", timeout=WAIT)


def upload(page, file):
    with page.expect_file_chooser() as chooser:
        page.get_by_text("Click to Upload").first.click()
    chooser.value.set_files(file)


def result_picture(page) -> np.ndarray:
    """The picture with the landmarks, in the size of the photo."""
    source = page.locator("#result img").get_attribute("src")
    body = page.request.get(source).body()
    return np.asarray(Image.open(io.BytesIO(body)).convert("RGB").resize((512, 512), Image.Resampling.BOX))


def test_an_example_shows_landmarks_on_the_face(page):
    pick_example(page)
    drawn = np.abs(result_picture(page).astype(int) - astronaut()).sum(axis=2) > 60
    rows, columns = np.nonzero(drawn)
    assert 0.002 < drawn.mean() < 0.05
    assert 165 < np.median(columns) < 285 and 85 < np.median(rows) < 185
    expect(page.get_by_text("jaw_0").first).to_be_visible()


def test_numbers_zoom_and_downloads(page):
    pick_example(page)
    page.get_by_label("Numbers").click()
    page.get_by_label("Zoom to the faces").click()
    page.wait_for_timeout(1500)
    with page.expect_download() as download:
        page.get_by_text("Download JSON").click()
    assert download.value.suggested_filename == "astronaut_landmarks.json"
    assert b'"jaw_0"' in download.value.path().read_bytes()
    with page.expect_download() as download:
        page.get_by_text("Download CSV").click()
    assert len(download.value.path().read_text().splitlines()) == 69


def test_a_photo_without_a_face_is_a_message(page, tmp_path):
    Image.new("RGB", (320, 240), (120, 160, 90)).save(tmp_path / "meadow.jpg")
    upload(page, tmp_path / "meadow.jpg")
    expect(page.locator("#status")).to_contain_text("No face found.", timeout=WAIT)


def test_a_box_by_two_clicks(page, tmp_path):
    turned = Image.fromarray(astronaut()).rotate(75, expand=True)  # more than the detector takes
    ImageDraw.Draw(turned).rectangle((0, 0, 20, 20), fill="red")
    turned.save(tmp_path / "turned.png")
    upload(page, tmp_path / "turned.png")
    expect(page.locator("#status")).to_contain_text("No face found.", timeout=WAIT)
    picture = page.locator("#result img")
    area = picture.bounding_box()
    share = area["width"] / turned.width
    for (x, y), told in (((95, 290), "Now click the opposite corner"), ((215, 410), "1 face.")):
        picture.click(position={"x": x * share, "y": y * share})
        expect(page.locator("#status")).to_contain_text(told, timeout=WAIT)


@pytest.mark.parametrize("name", ["text.jpg", "100mp.png", "bomb.png", "empty.png"])
def test_what_is_no_photo_is_a_message_and_the_page_goes_on(page, tmp_path, name):
    [(file, message)] = [(file, text) for file, text in make_bad_photos(tmp_path).items() if file.name == name]
    upload(page, file)
    expect(page.get_by_test_id("toast-body").first).to_contain_text(message, timeout=WAIT)
    pick_example(page)


def test_switching_checkpoints(page):
    pick_example(page)
    for name, told in (("three", "3 landmarks"), ("broken", "The checkpoint broken cannot be loaded")):
        page.get_by_label("Checkpoint").click()
        page.get_by_role("option", name=name).click()
        expect(page.locator("#card")).to_contain_text(told, timeout=WAIT)
    expect(page.get_by_test_id("toast-body").first).to_contain_text("broken cannot be loaded", timeout=WAIT)


def test_a_video(page):
    page.get_by_role("tab", name="Video").click()
    page.locator(".gallery-item").last.click()
    page.get_by_role("button", name="Follow the faces").click()
    expect(page.locator("#video_status")).to_contain_text("125 frames, 5.0 s", timeout=3 * WAIT)
    page.wait_for_function("document.querySelector('#followed video')?.readyState >= 2", timeout=WAIT)


def test_a_video_is_stopped(page):
    page.get_by_role("tab", name="Video").click()
    page.locator(".gallery-item").last.click()
    page.get_by_role("button", name="Follow the faces").click()
    expect(page.locator("#video_status")).to_contain_text("frames so far", timeout=WAIT)
    page.get_by_role("button", name="Stop").click()
    expect(page.locator("#video_status")).to_contain_text("Stopped.", timeout=WAIT)
    page.wait_for_timeout(2000)
    expect(page.locator("#video_status")).to_contain_text("Stopped.")
    page.get_by_role("button", name="Follow the faces").click()  # the place is free again
    expect(page.locator("#video_status")).to_contain_text("frames so far", timeout=WAIT)


def test_a_photo_replaced_at_once_leaves_nothing_of_the_first(page, tmp_path):
    Image.fromarray(np.tile(astronaut(), (2, 2, 1))).resize((5120, 5120)).save(tmp_path / "many.jpg", quality=80)
    upload(page, tmp_path / "many.jpg")
    expect(page.locator("#status")).to_contain_text("faces.", timeout=3 * WAIT)
    page.get_by_label("Points").click()
    page.locator(".gallery-item").first.click()
    expect(page.locator("#status")).to_contain_text("1 face.", timeout=WAIT)
    page.wait_for_timeout(5000)
    expect(page.locator("#status")).to_contain_text("1 face.")


def test_a_webcam(page, webcam):
    page.get_by_role("tab", name="Webcam").click()
    page.get_by_text("Click to Access Webcam").last.click()
    page.locator("button:visible", has_text="Record").click()
    expect(page.locator("#stream img")).to_be_visible(timeout=WAIT)
    page.wait_for_function("document.querySelector('#stream img').src.startsWith('data:image/jpeg')", timeout=WAIT)
    page.wait_for_timeout(2000)
    shown = inline_picture(page.locator("#stream img").get_attribute("src")).astype(int)
    source = np.asarray(Image.open(webcam).transpose(Image.Transpose.FLIP_LEFT_RIGHT))  # as in a mirror
    rows, columns = np.nonzero(np.abs(shown - source).sum(axis=2) > 150)
    assert 200 < len(rows) < 20_000
    assert 180 < np.median(rows) < 330 and 230 < np.median(columns) < 450


def inline_picture(source: str) -> np.ndarray:
    return np.asarray(Image.open(io.BytesIO(base64.b64decode(source.partition(",")[2]))).convert("RGB"))
