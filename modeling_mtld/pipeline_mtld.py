"""`pipeline("facial-landmark-detection")`: a photo in, the landmarks of its faces out."""

import numpy as np
from transformers import Pipeline

from .face_detection_mtld import box_overlap, detect_faces
from .image_processing_mtld import load_rgb

FOUND_OVERLAP = 0.25  # intersection over union with the detector's box, below which found landmarks are not trusted
# Mean move of a face's landmarks from the first crop to the second, over the longer side of their box, above which it
# is none. With a network of 6 epochs, 96 of 97 real faces stayed below, and 11 of 37 false ones.
STEADY_MOVE = 0.05


class FacialLandmarkDetectionPipeline(Pipeline):
    """Finds faces and their landmarks.

    A face that the detector found is cropped a second time, around the landmarks first found, as the detector's boxes
    are rougher than those the network was trained with. Where the landmarks then do not stay in place there was no
    face, and it is dropped. Given boxes are taken as they are, and all of them give a face.
    """

    _load_image_processor = True
    _load_processor = False
    _load_feature_extractor = False
    _load_tokenizer = False
    _load_video_processor = False

    def __init__(self, *args, **kwargs):
        super().__init__(*args, **kwargs)
        # transformers puts the classes themselves into the configuration, which then could not be saved.
        for entry in (getattr(self.model.config, "custom_pipelines", None) or {}).values():
            entry["pt"] = [getattr(auto_class, "__name__", auto_class) for auto_class in entry["pt"]]

    def __call__(self, images, boxes=None, **kwargs):
        """
        Args:
            images: a photo of any kind the processor takes (path, URL, PIL image, array, tensor), or a list, data
                set or generator of them.
            boxes: landmark boxes (x0, y0, x1, y1) in pixels of the upright photo, where the centre of the top-left
                pixel is (0, 0): for one photo a list of them, for a list of photos a list of such lists, each possibly
                empty. None, also for a single photo of the list, looks for the faces.
            kwargs: `batch_size` (photos) and `num_workers`, as in every pipeline.

        Returns:
            For each photo the list of its faces, the largest first where they were looked for, else in the order of
            `boxes`: {"score": mean of the landmarks' scores, "box": {"xmin", "ymin", "xmax", "ymax"} tight around the
            landmarks, "landmarks": [{"label": name or else index, "x", "y", "score"}, …]}, in pixels of the photo, as
            plain floats. A photo without a face gives an empty list; one photo gives its list alone.

        Raises:
            ValueError: if a photo cannot be read, a box is not one or lies beside its photo, or there are not as many
                lists of boxes as photos.
        """
        if getattr(images, "ndim", 0) == 4 or isinstance(images, tuple):
            images = list(images)
        if isinstance(images, list):
            items = [{"image": image, "boxes": own} for image, own in zip(images, _boxes_by_photo(images, boxes))]
            return super().__call__(items, **kwargs) if items else []
        return super().__call__(images if boxes is None else {"image": images, "boxes": boxes}, **kwargs)

    def _sanitize_parameters(self):
        return {}, {}, {}

    def preprocess(self, image):
        boxes = None
        if isinstance(image, dict):
            image, boxes = image["image"], image["boxes"]
        photo = load_rgb(image)
        return {"photo": photo, "boxes": detect_faces(photo)[0] if boxes is None else boxes, "detected": boxes is None}

    def _forward(self, model_inputs):
        # With a batch_size, transformers passes a batch's photos as lists, and takes the result apart again.
        batched = isinstance(model_inputs["photo"], list)
        photos, boxes, detected = (
            v if batched else [v] for v in map(model_inputs.get, ("photo", "boxes", "detected"))
        )
        faces = self._find_landmarks(photos, boxes)
        if any(detected):
            faces = self._find_again(photos, boxes, faces, detected)
        return {"faces": faces if batched else faces[0]}

    def _find_again(self, photos, boxes, faces, detected) -> list[list[dict]]:
        """The faces of each photo, those of detected boxes from a second crop."""
        second_boxes = [
            [_box_for_second_crop(box, face["bbox"]) for box, face in zip(own, found)] if is_detected else []
            for own, found, is_detected in zip(boxes, faces, detected)
        ]
        second_faces = self._find_landmarks(photos, second_boxes)
        return [
            [face for first, face in zip(found, again) if _is_steady(first, face)] if is_detected else found
            for found, again, is_detected in zip(faces, second_faces, detected)
        ]

    def _find_landmarks(self, photos, boxes) -> list[list[dict]]:
        """Faces of each photo, as the processor describes them. With one photo, errors speak of it alone."""
        one = len(photos) == 1
        inputs = self.image_processor(photos[0] if one else photos, boxes[0] if one else boxes, return_tensors="pt")
        if len(inputs["pixel_values"]) == 0:
            return [[] for _ in photos]
        outputs = self.model(pixel_values=inputs["pixel_values"].to(self.device, self.dtype))
        return self.image_processor.post_process_landmark_detection(outputs, inputs)

    def postprocess(self, model_outputs) -> list[dict]:
        return [self._describe(face) for face in model_outputs["faces"]]

    def _describe(self, face: dict) -> dict:
        names = self.model.config.landmark_names or [str(label) for label in face["labels"].tolist()]
        return {
            "score": face["scores"].mean().item(),
            "box": dict(zip(("xmin", "ymin", "xmax", "ymax"), face["bbox"].tolist())),
            "landmarks": [
                {"label": name, "x": x, "y": y, "score": score}
                for name, (x, y), score in zip(names, face["keypoints"].tolist(), face["scores"].tolist())
            ],
        }


def _boxes_by_photo(images: list, boxes) -> list:
    if boxes is None:
        return [None] * len(images)
    if not isinstance(boxes, list | tuple) or len(boxes) != len(images):
        found = f"{len(boxes)} of them" if isinstance(boxes, list | tuple) else repr(boxes)
        raise ValueError(f"boxes must be one list for each of the {len(images)} images, but got {found}")
    return list(boxes)


def _box_for_second_crop(detected: np.ndarray, found) -> np.ndarray:
    """Box (4,) of the landmarks first found, unless they are away from the face."""
    found = found.double().numpy()
    shared = box_overlap(found, detected[None])[0]
    union = sum((box[2:] - box[:2]).prod() for box in (found, detected)) - shared
    return found if shared >= FOUND_OVERLAP * union else detected


def _is_steady(first: dict, second: dict) -> bool:
    move = (second["keypoints"] - first["keypoints"]).norm(dim=-1).mean()
    return bool(move <= STEADY_MOVE * (second["bbox"][2:] - second["bbox"][:2]).max())
