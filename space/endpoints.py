"""The endpoints for programs: named, with typed arguments, for `gradio_client` and plain HTTP."""

import reprlib

import gradio as gr
from cards import summary
from gradio.utils import get_function_description
from messages import as_message
from picker import Picker
from PIL import Image
from uploads import new_file, read_photo, uploaded_file
from video_tab import follow_video

MAX_BOXES = 100  # of one photo


def add_endpoints(page: gr.Blocks, picker: Picker, photos: dict, videos: dict):
    """Adds the endpoints /detect, /annotate, /track and /checkpoints.

    Args:
        photos, videos: `concurrency_limit` and `concurrency_id` of events that use the network.
    """
    endpoints = Endpoints(picker)
    queues = {endpoints.detect: photos, endpoints.annotate: photos, endpoints.track: videos, endpoints.checkpoints: {}}
    for function, queue in queues.items():
        text, parameters, _ = get_function_description(function)
        added = gr.api(as_message(function), api_name=function.__name__, api_description=text, **queue)
        for component, sentence in zip(page.fns[added["id"]].inputs, parameters.values()):
            component.label = sentence  # the API page shows it as the argument's description


class Endpoints:
    """Each public method is an endpoint. The API page shows the summary and the arguments of its docstring."""

    def __init__(self, picker: Picker):
        self._picker = picker

    def detect(
        self,
        photo: gr.FileData,
        boxes: list[list[float]] | None = None,
        checkpoint: str = "",
        min_score: float | None = None,
    ) -> list[dict]:
        """Finds the faces in a photo and their landmarks.

        Parameters:
            photo: the file: `gradio_client.handle_file("photo.jpg")`.
            boxes: landmark boxes [x0, y0, x1, y1] in pixels of the upright photo; null looks for faces.
            checkpoint: one of the names that /checkpoints returns; "" is the first.
            min_score: from 0 to 1; detected faces with a lower score are dropped. null is the checkpoint's threshold.

        Returns:
            For each face its score, its box (xmin, ymin, xmax, ymax) and its landmarks (label, x, y, score).
        """
        find = self._picker.load(checkpoint)
        rgb, _ = read_photo(photo, find)
        return _faces(find, rgb, boxes, min_score)

    def annotate(
        self,
        photo: gr.FileData,
        boxes: list[list[float]] | None = None,
        checkpoint: str = "",
        min_score: float | None = None,
    ) -> gr.FileData:
        """Draws the landmarks of a photo's faces on it.

        Parameters:
            photo: as of /detect.
            boxes: as of /detect.
            checkpoint: as of /detect.
            min_score: as of /detect.

        Returns:
            The picture, a PNG of the photo's size, or larger where faces are small.
        """
        find = self._picker.load(checkpoint)
        rgb, _ = read_photo(photo, find)
        picture = find.draw(rgb, _faces(find, rgb, boxes, min_score), by_confidence=True)
        path = new_file("landmarks.png")
        Image.fromarray(picture).save(path, compress_level=1)
        return gr.FileData(path=str(path))

    def track(self, video: gr.FileData, checkpoint: str = "", smooth: bool = True) -> gr.FileData:
        """Follows the faces of a video and draws their landmarks on it.

        Parameters:
            video: the file: `gradio_client.handle_file("video.mp4")`. What exceeds the page's limits is cut.
            checkpoint: as of /detect.
            smooth: whether to take out the jitter with a One-Euro filter.

        Returns:
            The video, an MP4.
        """
        *_, (_, _, path) = follow_video(self._picker.load(checkpoint), uploaded_file(video, "video"), smooth)
        return gr.FileData(path=path)

    def checkpoints(self) -> list[dict]:
        """The checkpoints that can be chosen, the default first.

        Returns:
            For each its name, num_landmarks, landmark_names, image_size and the results on its card, or its name
            and the error if it cannot be loaded.
        """
        return [self._summary(label) for label in self._picker.labels]

    def _summary(self, label: str) -> dict:
        try:
            return summary(self._picker.load(label), self._picker.checkpoint(label))
        except ValueError as error:
            return {"name": label, "error": str(error)}


def _faces(find, rgb, boxes, min_score) -> list[dict]:
    if boxes is None:
        return find(rgb) if min_score is None else find(rgb, min_score=min_score)
    if not isinstance(boxes, list):
        expected = "a list such as [[40, 60, 200, 230]], or null to look for faces"
        raise ValueError(f"boxes must be {expected}, but got {reprlib.repr(boxes)}")
    # The boxes of one photo may come in a list of their own.
    count = len(boxes[0]) if len(boxes) == 1 and isinstance(boxes[0], list) else len(boxes)
    if count > MAX_BOXES:
        raise ValueError(f"boxes must be {MAX_BOXES} at most, but got {count}")
    return find(rgb, boxes=boxes)
