"""The tab for photos: faces found and drawn, cut out, listed; a box by two clicks where the detector missed one."""

import secrets
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path

import gradio as gr
import numpy as np
from faces import (
    COLUMNS,
    MIN_SCORE,
    View,
    as_csv,
    as_json,
    box_of_faces,
    face_in_box,
    find_faces,
    rows,
    seen,
    shown,
    with_faces,
)
from messages import as_message
from picker import Picker
from PIL import Image
from uploads import EXAMPLES, new_file, read_photo

DISPLAY_SIDE = 1600  # pixels of the longer side of a picture on the page; the coordinates stay those of the photo
CROP_SIDE = 256
MAX_CROPS = 24
ZOOM_MARGIN = 0.3  # around the box of all faces, over its longer side
MIN_CLICKED_SIDE = 8  # pixels of the photo
DRAWERS = 2  # redraw at a time
VIEWS = 7  # that `_show` gives values for
RAW = {"preprocess": False, "api_visibility": "private"}  # of events: files as Gradio has them, unopened
WELCOME = "Upload, paste or take a photo, or pick an example."
CORNER_HINT = "**Now click the opposite corner** of the box around the face, or the same place to have no box."
CLICK_HINT = "A face was missed? Click two opposite corners around it in the picture, from brows to chin."
# Small pictures however few there are.
CSS = "#crops .grid-container {grid-template-columns: repeat(auto-fill, 110px) !important}"
# Of the confidences, as the pipeline draws them.
COLORS = "#9511a1,#be3885,#dc5d67,#f3874a,#fdb52e,#f4ed27"
MARK = (255, 64, 64)  # RGB of a clicked corner


def build(picker: Picker, checkpoint: gr.Dropdown, queue: dict):
    """Adds the tab's components and events to the page.

    Args:
        checkpoint: the page's choice among the picker's.
        queue: `concurrency_limit` and `concurrency_id` of events that use the network.
    """
    with gr.Row():
        with gr.Column(scale=2, min_width=320):
            photo = _add_photo()
        with gr.Column(scale=3, min_width=320):
            picture, status = _add_picture()
            options = _add_options()
            results = _add_results()
    # Each is written by one kind of event alone, as these may overtake each other.
    found = gr.State(time_to_live=3600)  # what `_find` returns
    given = gr.State(time_to_live=3600)  # what `_click` returns
    view = gr.State()  # what the picture shows of the photo, see `View`
    newest = gr.State(
        {}
    )  # a dict of the visitor's own, with the file of the newest "photo" as soon as it is looked at
    views = [view, picture, status, *results]
    show = {
        "fn": as_message(partial(_show, picker)),
        "inputs": [photo, found, given, newest, *options],
        "outputs": views,
        "concurrency_limit": DRAWERS,
        **RAW,
    }

    looked = gr.on(
        [photo.change, checkpoint.change],
        as_message(partial(_find, picker)),
        [photo, checkpoint, newest],
        found,
        **RAW,
        **queue,
    )
    looked.success(**show, show_progress="minimal")
    looked.failure(lambda: (None, *_blank("That did not work; the message says why.")), None, views, **RAW)

    @as_message
    def click(payload, result, own, seen_as, event: gr.SelectData):
        return _click(picker, payload, result, own, seen_as, event.index)

    clicked = picture.select(click, [photo, found, given, view], given, **RAW, **queue)
    clicked.success(**show, show_progress="hidden")
    style, zoom, point_size, min_score = options
    changes = [style.change, zoom.change, point_size.release, min_score.release]
    gr.on(changes, **show, show_progress="hidden", trigger_mode="always_last")


def _add_photo() -> gr.Image:
    photo = gr.Image(
        label="Photo",
        sources=["upload", "webcam", "clipboard"],
        image_mode=None,
        height=360,
        buttons=["fullscreen"],
        webcam_options=gr.WebcamOptions(mirror=False),
    )
    gr.Examples(sorted(map(str, EXAMPLES.glob("*.jpg"))), photo, label="Examples", api_visibility="private")
    return photo


def _add_picture() -> tuple[gr.Image, gr.Markdown]:
    picture = gr.Image(
        label="Landmarks",
        interactive=False,
        buttons=["download", "fullscreen"],
        elem_id="result",
    )
    gr.HTML(_legend())
    return picture, gr.Markdown(WELCOME, elem_id="status")


def _add_options() -> list:
    style = gr.Radio(["Contours", "Numbers", "Points"], value="Contours", label="Draw landmarks as")
    zoom = gr.Checkbox(False, label="Zoom to the faces")
    with gr.Row():
        point_size = gr.Slider(0.5, 3, 1, step=0.25, label="Point size", min_width=200)
        min_score = gr.Slider(0, 1, MIN_SCORE, step=0.05, label="Minimum confidence of a face", min_width=200)
    return [style, zoom, point_size, min_score]


def _add_results() -> list:
    crops = gr.Gallery(
        label="Faces, turned upright",
        show_label=False,
        height=140,
        object_fit="contain",
        preview=False,
        visible=False,
        elem_id="crops",
    )
    with gr.Row():
        files = [gr.DownloadButton(f"Download {kind}", interactive=False) for kind in ("JSON", "CSV")]
    table = gr.Dataframe(
        headers=list(COLUMNS),
        label="Landmarks in pixels of the photo",
        interactive=False,
        max_height=320,
        column_widths=["14%", "30%", "19%", "19%", "18%"],
    )
    return [crops, table, *files]


def _legend() -> str:
    size = "flex:1;min-width:4em;max-width:12em;height:.7em;border-radius:.35em"
    return (
        '<div style="display:flex;align-items:center;gap:.6em;font-size:.85em">Confidence: 0.5 or less'
        f'<span style="{size};background:linear-gradient(90deg,{COLORS})"></span>0.95 or more</div>'
    )


@dataclass(frozen=True)
class Given:
    """What a visitor has given by clicks for what was `found`: faces, and the first of two corners, if it was one."""

    found: str  # its "key"
    faces: tuple[dict, ...] = ()
    corner: tuple[float, float] | None = None  # in pixels of the photo


def _given(result: dict, given: Given | None) -> Given:
    return given if given is not None and given.found == result["key"] else Given(result["key"])


def _find(picker: Picker, payload, label: str, newest: dict) -> dict | None:
    """What is found in a photo, with a key, the checkpoint, the photo's file and notes on it."""
    newest["photo"] = payload and payload["path"]
    if payload is None:
        return None
    pipe = picker.load(label)
    rgb, notes = read_photo(payload, pipe)
    faces, key = find_faces(pipe, rgb), secrets.token_hex(8)
    return {"key": key, "checkpoint": label, "photo": payload["path"], "faces": faces, "notes": notes}


def _show(picker: Picker, payload, result: dict | None, given, newest: dict, *options) -> tuple:
    """The values of the page's views, unless another photo has come in the meantime, whose own are on their way."""
    if payload is None or result is None:
        return None, *_blank(WELCOME)
    if result["photo"] != payload["path"]:
        return (gr.skip(),) * VIEWS
    views = _make_views(picker, payload, result, given, *options)
    return views if newest.get("photo") == payload["path"] else (gr.skip(),) * VIEWS


def _make_views(picker: Picker, payload, result: dict, given, style: str, zoom: bool, point_size, min_score) -> tuple:
    """The view of the photo, and the picture, status, crops, table and files."""
    pipe = picker.load(result["checkpoint"])
    rgb, _ = read_photo(payload, pipe)
    given = _given(result, given)
    everything = with_faces(result["faces"], given.faces)
    faces = shown(everything, min_score)
    options = {"numbers": style == "Numbers", "joined": style == "Contours", "point_size": point_size}
    picture, view = _draw(pipe, rgb, faces, zoom, options)
    if given.corner is not None:
        _mark(picture, view.to_picture(*given.corner))
    crops = [pipe.align(rgb, face, CROP_SIDE) for face in faces[:MAX_CROPS]]
    name = Path(payload.get("orig_name") or "photo").stem[:60]
    return (
        view,
        _picture_file(f"{name}_landmarks.webp", picture),
        CORNER_HINT if given.corner else _status(len(faces), len(everything) - len(faces), result["notes"]),
        gr.Gallery(crops, visible=bool(crops)),
        rows(faces, digits=1),
        _download(f"{name}_landmarks.json", as_json(faces)) if faces else _nothing(),
        _download(f"{name}_landmarks.csv", as_csv(faces)) if faces else _nothing(),
    )


def _blank(status: str):
    return None, status, gr.Gallery(None, visible=False), None, _nothing(), _nothing()


def _draw(pipe, rgb: np.ndarray, faces: list[dict], zoom: bool, options: dict) -> tuple[np.ndarray, View]:
    """The faces drawn on the photo, or on the part of it that has them, as large as a page can show it."""
    left, top, right, bottom = _around(faces, rgb) if zoom and faces else (0, 0, rgb.shape[1], rgb.shape[0])
    part = rgb[top:bottom, left:right]
    size = _fit(part.shape[1], part.shape[0])
    if size != (part.shape[1], part.shape[0]):
        part = np.asarray(Image.fromarray(part).resize(size, Image.Resampling.LANCZOS))
    view = View(left, top, size[0] / (right - left))
    picture = pipe.draw(part, seen(faces, view), by_confidence=True, **options)
    return picture, View(left, top, view.scale * picture.shape[1] / size[0])


def _around(faces: list[dict], rgb: np.ndarray) -> tuple[int, int, int, int]:
    """The part of the photo with the faces: left, top, right and bottom."""
    x0, y0, x1, y1 = box_of_faces(faces)
    margin = ZOOM_MARGIN * max(x1 - x0, y1 - y0)
    height, width = rgb.shape[:2]
    left, top = (int(min(max(0, low - margin), length - 1)) for low, length in ((x0, width), (y0, height)))
    right, bottom = (int(max(1, min(high + margin, length))) for high, length in ((x1, width), (y1, height)))
    return left, top, max(right, left + 1), max(bottom, top + 1)


def _fit(width: int, height: int) -> tuple[int, int]:
    shrunk = min(1.0, DISPLAY_SIDE / max(width, height))
    return max(1, round(width * shrunk)), max(1, round(height * shrunk))


def _mark(picture: np.ndarray, point: tuple[float, float]):
    """A cross where the first corner was clicked."""
    x, y = (round(value) for value in point)
    arm, half = max(8, max(picture.shape) // 60), max(1, max(picture.shape) // 500)
    picture[max(0, y - half) : y + half + 1, max(0, x - arm) : x + arm + 1] = MARK
    picture[max(0, y - arm) : y + arm + 1, max(0, x - half) : x + half + 1] = MARK


def _status(faces: int, hidden: int, notes: str) -> str:
    count = {0: "**No face found.**", 1: "**1 face.**"}.get(faces, f"**{faces} faces.**")
    below = f"{hidden} more below the minimum confidence." if hidden else ""
    return " ".join(filter(None, [count, below, notes, CLICK_HINT]))


def _picture_file(name: str, picture: np.ndarray) -> str:
    path = new_file(name)
    Image.fromarray(picture).save(path, quality=90, method=2)
    return str(path)


def _download(name: str, text: str) -> gr.DownloadButton:
    """A button for a file of its own, which lies among Gradio's and is removed with them."""
    path = new_file(name)
    path.write_text(text, encoding="utf-8")
    return gr.DownloadButton(value=str(path), interactive=True)


def _nothing() -> gr.DownloadButton:
    return gr.DownloadButton(value=None, interactive=False)


def _click(picker: Picker, payload, result: dict | None, given, view: View | None, index) -> Given | None:
    """What is given after a click at `index`, a pixel (x, y) of the picture: a corner, or a face in the box of two."""
    if payload is None or result is None or view is None or result["photo"] != payload["path"]:
        return given
    given, point = _given(result, given), view.to_photo(*index)
    if given.corner is None:
        return replace(given, corner=point)
    low, high = np.minimum(given.corner, point), np.maximum(given.corner, point)
    if (high - low).min() < MIN_CLICKED_SIDE:  # the same place again: no box is wanted
        return replace(given, corner=None)
    pipe = picker.load(result["checkpoint"])
    face = face_in_box(pipe, read_photo(payload, pipe)[0], [*low.tolist(), *high.tolist()])
    return replace(given, corner=None, faces=(*with_faces(given.faces, [face]),))
