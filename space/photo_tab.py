"""The tab for photos: it draws, crops and lists the detected faces, and those that a visitor boxes by two clicks."""

import secrets
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path

import gradio as gr
import numpy as np
from faces import (
    COLUMNS,
    LOWEST_SCORE,
    MIN_SCORE,
    View,
    as_csv,
    as_json,
    box_of_faces,
    face_in_box,
    faces_in_picture,
    filter_faces,
    find_faces,
    merge_faces,
    rows,
)
from messages import as_message
from picker import Picker
from PIL import Image
from uploads import EXAMPLES, new_file, read_photo

DISPLAY_SIDE = 1600  # pixels, longer side of the picture on the page; coordinates are always pixels of the photo
CROP_SIDE = 256
MAX_CROPS = 24
ZOOM_MARGIN = 0.3  # around the box of all faces, as a fraction of its longer side
MIN_CLICKED_SIDE = 8  # pixels of the photo
MAX_DRAWINGS = 2  # at a time
NUM_OUTPUTS = 7  # values that `_show` returns
# Options of events: Gradio passes the paths of files and does not open them.
RAW = {"preprocess": False, "api_visibility": "private"}
FAILURE = "The photo could not be processed. The message says why."
WELCOME = "Upload, paste or take a photo, or pick an example."
CORNER_HINT = "**Now click the opposite corner** of the box around the face. Click the same place again to cancel."
CLICK_HINT = "To add a missed face, click two opposite corners of a box around it in the picture, from brows to chin."
# Keep the crops small, also when there are few.
CSS = "#crops .grid-container {grid-template-columns: repeat(auto-fill, 110px) !important}"
# The pipeline's colours of confidences, from 0.5 to 0.95.
COLORS = "#9511a1,#be3885,#dc5d67,#f3874a,#fdb52e,#f4ed27"
MARK_COLOR = (255, 64, 64)  # RGB of a clicked corner


def build(picker: Picker, checkpoint: gr.Dropdown, queue: dict):
    """Adds the tab's components and events to the page.

    Args:
        checkpoint: the dropdown with the picker's labels.
        queue: `concurrency_limit` and `concurrency_id` of events that use the network.
    """
    with gr.Row():
        with gr.Column(scale=2, min_width=320):
            photo = _add_photo()
        with gr.Column(scale=3, min_width=320):
            picture, status = _add_picture()
            options = _add_options()
            results = _add_results()
    # Events may overtake each other, so each state is written by one kind of event only.
    detection = gr.State(time_to_live=3600)  # what `_find` returns
    clicks = gr.State(time_to_live=3600)  # what `_click` returns
    view = gr.State()  # the `View` of the picture
    session = gr.State({})  # the visitor's own dict: "photo" is the file of the photo last passed to `_find`
    outputs = [view, picture, status, *results]
    show_event = {
        "fn": as_message(partial(_show, picker)),
        "inputs": [photo, detection, clicks, session, *options],
        "outputs": outputs,
        "concurrency_limit": MAX_DRAWINGS,
        **RAW,
    }

    find_event = gr.on(
        [photo.change, checkpoint.change],
        as_message(partial(_find, picker)),
        [photo, checkpoint, session],
        detection,
        **RAW,
        **queue,
    )
    find_event.success(**show_event, show_progress="minimal")
    find_event.failure(lambda: (None, *_empty_outputs(FAILURE)), None, outputs, **RAW)

    @as_message
    def handle_click(payload, detection_value, clicks_value, view_value, event: gr.SelectData):
        return _click(picker, payload, detection_value, clicks_value, view_value, event.index)

    click_event = picture.select(handle_click, [photo, detection, clicks, view], clicks, **RAW, **queue)
    click_event.success(**show_event, show_progress="hidden")
    style, zoom, point_size, min_score = options
    option_events = [style.change, zoom.change, point_size.release, min_score.release]
    gr.on(option_events, **show_event, show_progress="hidden", trigger_mode="always_last")


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
        min_score = gr.Slider(
            LOWEST_SCORE, 1, MIN_SCORE, step=0.05, label="Minimum confidence of a face", min_width=200
        )
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
class Clicks:
    """What a visitor has added to a detection by clicks: faces, and the first corner of a box that is not complete."""

    detection_key: str
    faces: tuple[dict, ...] = ()
    corner: tuple[float, float] | None = None  # in pixels of the photo


def _clicks_on(detection: dict, clicks: Clicks | None) -> Clicks:
    """`clicks`, or none if they belong to another detection."""
    return clicks if clicks is not None and clicks.detection_key == detection["key"] else Clicks(detection["key"])


def _find(picker: Picker, payload, label: str, session: dict) -> dict | None:
    """Detects the faces of a photo. Returns a key of this detection, checkpoint, photo's file, faces and notes."""
    session["photo"] = payload and payload["path"]
    if payload is None:
        return None
    pipe = picker.load(label)
    rgb, notes = read_photo(payload, pipe)
    faces, key = find_faces(pipe, rgb), secrets.token_hex(8)
    notes = " ".join(filter(None, [notes, f"{pipe.detector_name} looked for faces."]))
    return {"key": key, "checkpoint": label, "photo": payload["path"], "faces": faces, "notes": notes}


def _show(picker: Picker, payload, detection: dict | None, clicks, session: dict, *options) -> tuple:
    """The values of the page's outputs. Skips them if another photo has replaced this one: its own event sets them."""
    if payload is None or detection is None:
        return None, *_empty_outputs(WELCOME)
    if detection["photo"] != payload["path"]:
        return (gr.skip(),) * NUM_OUTPUTS
    outputs = _make_outputs(picker, payload, detection, clicks, *options)
    return outputs if session.get("photo") == payload["path"] else (gr.skip(),) * NUM_OUTPUTS


def _make_outputs(
    picker: Picker, payload, detection: dict, clicks, style: str, zoom: bool, point_size, min_score
) -> tuple:
    """The view of the photo, and the picture, status, crops, table and files."""
    pipe = picker.load(detection["checkpoint"])
    rgb, _ = read_photo(payload, pipe)
    clicks = _clicks_on(detection, clicks)
    all_faces = merge_faces(detection["faces"], clicks.faces)
    faces = filter_faces(all_faces, min_score)
    options = {"numbers": style == "Numbers", "joined": style == "Contours", "point_size": point_size}
    picture, view = _draw(pipe, rgb, faces, zoom, options)
    if clicks.corner is not None:
        _draw_cross(picture, view.to_picture(*clicks.corner))
    crops = [pipe.align(rgb, face, CROP_SIDE) for face in faces[:MAX_CROPS]]
    name = Path(payload.get("orig_name") or "photo").stem[:60]
    return (
        view,
        _picture_file(f"{name}_landmarks.webp", picture),
        CORNER_HINT if clicks.corner else _status(len(faces), len(all_faces) - len(faces), detection["notes"]),
        gr.Gallery(crops, visible=bool(crops)),
        rows(faces, digits=1),
        _download(f"{name}_landmarks.json", as_json(faces)) if faces else _no_download(),
        _download(f"{name}_landmarks.csv", as_csv(faces)) if faces else _no_download(),
    )


def _empty_outputs(status: str):
    return None, status, gr.Gallery(None, visible=False), None, _no_download(), _no_download()


def _draw(pipe, rgb: np.ndarray, faces: list[dict], zoom: bool, options: dict) -> tuple[np.ndarray, View]:
    """Draws the faces on the photo, or with `zoom` on the area around them, scaled down to DISPLAY_SIDE if larger."""
    left, top, right, bottom = _zoom_area(faces, rgb) if zoom and faces else (0, 0, rgb.shape[1], rgb.shape[0])
    area = rgb[top:bottom, left:right]
    size = _display_size(area.shape[1], area.shape[0])
    if size != (area.shape[1], area.shape[0]):
        area = np.asarray(Image.fromarray(area).resize(size, Image.Resampling.LANCZOS))
    view = View(left, top, size[0] / (right - left))
    picture = pipe.draw(area, faces_in_picture(faces, view), by_confidence=True, **options)
    return picture, View(left, top, view.scale * picture.shape[1] / size[0])


def _zoom_area(faces: list[dict], rgb: np.ndarray) -> tuple[int, int, int, int]:
    """The area of the photo with the faces, in pixels: left, top, right and bottom."""
    x0, y0, x1, y1 = box_of_faces(faces)
    margin = ZOOM_MARGIN * max(x1 - x0, y1 - y0)
    height, width = rgb.shape[:2]
    left, top = (int(min(max(0, low - margin), length - 1)) for low, length in ((x0, width), (y0, height)))
    right, bottom = (int(max(1, min(high + margin, length))) for high, length in ((x1, width), (y1, height)))
    return left, top, max(right, left + 1), max(bottom, top + 1)


def _display_size(width: int, height: int) -> tuple[int, int]:
    scale = min(1.0, DISPLAY_SIDE / max(width, height))
    return max(1, round(width * scale)), max(1, round(height * scale))


def _draw_cross(picture: np.ndarray, point: tuple[float, float]):
    """Draws a cross at the first corner of a box, in place."""
    x, y = (round(value) for value in point)
    arm, half = max(8, max(picture.shape) // 60), max(1, max(picture.shape) // 500)
    picture[max(0, y - half) : y + half + 1, max(0, x - arm) : x + arm + 1] = MARK_COLOR
    picture[max(0, y - arm) : y + arm + 1, max(0, x - half) : x + half + 1] = MARK_COLOR


def _status(num_faces: int, num_hidden: int, notes: str) -> str:
    count = {0: "**No face found.**", 1: "**1 face.**"}.get(num_faces, f"**{num_faces} faces.**")
    hidden_count = f"{num_hidden} more below the minimum confidence." if num_hidden else ""
    return " ".join(filter(None, [count, hidden_count, notes, CLICK_HINT]))


def _picture_file(name: str, picture: np.ndarray) -> str:
    path = new_file(name)
    Image.fromarray(picture).save(path, quality=90, method=2)
    return str(path)


def _download(name: str, text: str) -> gr.DownloadButton:
    """A button that downloads `text`, from a new file that is removed with the uploads."""
    path = new_file(name)
    path.write_text(text, encoding="utf-8")
    return gr.DownloadButton(value=str(path), interactive=True)


def _no_download() -> gr.DownloadButton:
    return gr.DownloadButton(value=None, interactive=False)


def _click(picker: Picker, payload, detection: dict | None, clicks, view: View | None, index) -> Clicks | None:
    """Adds a click at `index`, a pixel (x, y) of the picture: as a first corner, or as a face in the completed box."""
    if payload is None or detection is None or view is None or detection["photo"] != payload["path"]:
        return clicks
    clicks, point = _clicks_on(detection, clicks), view.to_photo(*index)
    if clicks.corner is None:
        return replace(clicks, corner=point)
    low, high = np.minimum(clicks.corner, point), np.maximum(clicks.corner, point)
    if (high - low).min() < MIN_CLICKED_SIDE:  # a second click at the same place cancels the box
        return replace(clicks, corner=None)
    pipe = picker.load(detection["checkpoint"])
    face = face_in_box(pipe, read_photo(payload, pipe)[0], [*low.tolist(), *high.tolist()])
    return replace(clicks, corner=None, faces=(*merge_faces(clicks.faces, [face]),))
