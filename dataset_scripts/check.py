"""Check of a data set: counts, points outside their photos, shared photos, boxes, flip pairs."""

import hashlib
import io
import itertools
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass

import datasets
import numpy as np
from tqdm.auto import tqdm

from modeling_mtld.geometry_mtld import (
    BOX_ENLARGEMENT,
    check_box,
    crop_matrix,
    pixels_to_fractions,
    transform_points,
)
from modeling_mtld.photo_mtld import exif_orientation, open_image

from .benchmark_facts import Benchmark
from .symmetry import MirroredMean, OddPartner, mirrored_mean, odd_partners

FAR_OUTSIDE = 0.5  # of the crop's side: further out, the middle of the face is not in the photo
SMALL_BOX = 10  # pixels, of the longer side
LARGE_BOX = 5  # times the landmark box
_EXAMPLES = 5  # rows named in a finding


@dataclass(frozen=True)
class Report:
    """What `check_faces` found, as lines of text.

    Attributes:
        counts: a table of the splits, and the subsets.
        warnings: possible errors: numbers that differ from the official ones, points a little outside.
        faults: errors that spoil training or scores.
    """

    counts: tuple[str, ...]
    warnings: tuple[str, ...]
    faults: tuple[str, ...]

    def __str__(self) -> str:
        sections = [*self.counts]
        for title, lines in (("Warnings", self.warnings), ("Faults", self.faults)):
            sections += ["", f"{title}:" if lines else f"{title}: none", *(f"  {line}" for line in lines)]
        return "\n".join(sections)


@dataclass(frozen=True)
class _Finding:
    text: str
    fault: bool


@dataclass(frozen=True)
class _Split:
    """The columns of a split as arrays; `sizes` (N, 2) are widths and heights, `digests` of the photos' files."""

    name: str
    image_ids: list[str]
    landmarks: np.ndarray
    landmark_boxes: np.ndarray
    boxes: np.ndarray
    crop_boxes: np.ndarray
    occluded: np.ndarray | None
    sizes: np.ndarray
    digests: list[str]

    @property
    def annotated(self) -> np.ndarray:
        return np.isfinite(self.landmarks).all(axis=-1)


def check_faces(splits: Mapping[str, datasets.Dataset], benchmark: Benchmark) -> Report:
    """Looks for what is wrong with a data set. Photos are read, not decoded: 20,000 faces take about a minute.

    Warnings: numbers of faces other than the official ones; points outside the photo, which is
    (-0.5, -0.5, W - 0.5, H - 0.5); annotated boxes that do not fit, where crops are not made from them.

    Faults: points outside the photo by more than half the side of the crop; photos in several splits (an equal
    `image_id` or equal files; near copies are not looked for); boxes without area, crops' boxes under 10 px or which
    do not fit the landmarks; flip pairs that do not look symmetric on the mean face (see `symmetry.odd_partners`).

    Args:
        splits: the faces of each split by its name, with the columns of `FaceBuilder`.
        benchmark: what the points mean, and the official numbers.

    Raises:
        ValueError: if there are no splits, or a photo is no image.
    """
    if not splits:
        raise ValueError("splits must hold at least one split, but got none")
    read = [_read(name, faces, benchmark) for name, faces in splits.items()]
    mirrored = mirrored_mean(np.concatenate([_in_crops(split) for split in read]))
    findings = [
        *_wrong_counts(splits, benchmark),
        *(finding for split in read for finding in _points_outside(split)),
        *(finding for split in read for finding in _bad_boxes(split, benchmark)),
        *_shared_photos(read, benchmark),
        *_odd_pairs(mirrored, benchmark),
    ]
    return Report(
        (*_table(read, benchmark), *_subsets(splits, benchmark), _compared(mirrored, benchmark)),
        tuple(finding.text for finding in findings if not finding.fault),
        tuple(finding.text for finding in findings if finding.fault),
    )


# Reading ---------------------------------------------------------------------------------------------------------


def _read(name: str, faces: datasets.Dataset, benchmark: Benchmark) -> _Split:
    columns = [column for column in ("landmarks", "landmark_box", "box", "occluded") if column in faces.features]
    arrays = {column: _array(faces, column) for column in columns}
    image_ids = faces["image_id"][:]
    digests, sizes = _photos(name, faces, image_ids)
    return _Split(
        name,
        image_ids,
        arrays["landmarks"].reshape(-1, benchmark.num_landmarks, 2),
        arrays["landmark_box"].reshape(-1, 4),
        arrays["box"].reshape(-1, 4),
        _boxes_to_crop(arrays, benchmark).reshape(-1, 4),
        arrays.get("occluded"),
        np.array(sizes, dtype=np.float64).reshape(-1, 2),
        digests,
    )


def _array(faces: datasets.Dataset, column: str) -> np.ndarray:
    return np.array(faces.select_columns([column]).with_format("numpy")[column][:], dtype=np.float64)


def _boxes_to_crop(arrays: Mapping[str, np.ndarray], benchmark: Benchmark) -> np.ndarray:
    rows = zip(arrays["landmark_box"], arrays["box"], strict=True)
    return np.array([benchmark.box_to_crop({"landmark_box": around, "box": box}) for around, box in rows])


def _photos(name: str, faces: datasets.Dataset, image_ids: list[str]) -> tuple[list[str], list[tuple[int, int]]]:
    """Digests and sizes of the photos' files, each file read once."""
    undecoded = faces.select_columns(["image"]).cast_column("image", datasets.Image(decode=False)).with_format(None)
    seen: dict[str, tuple] = {}
    photos = []
    for image_id, row in zip(image_ids, tqdm(undecoded, desc=f"Checking {name}", unit=" faces"), strict=True):
        photo = row["image"]
        key = None if photo["bytes"] else photo["path"]
        try:
            photos.append(seen.get(key) or _digest_and_size(photo))
        except Exception as error:  # PIL's readers raise nearly anything on damaged files
            raise ValueError(f"photo {image_id} of {name} must be an image, but got: {error}") from error
        if key:
            seen[key] = photos[-1]
    return [digest for digest, _ in photos], [size for _, size in photos]


def _digest_and_size(photo: Mapping) -> tuple[str, tuple[int, int]]:
    """The photo's digest, and its width and height as `datasets` shows it: turned by its EXIF orientation."""
    stored = photo["bytes"]
    if not stored:
        with open(photo["path"], "rb") as file:
            stored = file.read()
    with open_image(io.BytesIO(stored)) as image:
        is_turned = image.format != "TIFF" and exif_orientation(image) >= 5  # the size of a TIFF is the upright one
        size = image.size[::-1] if is_turned else image.size
    return hashlib.blake2b(stored, digest_size=16).hexdigest(), size


# Counts ----------------------------------------------------------------------------------------------------------


def _table(splits: list[_Split], benchmark: Benchmark) -> Iterator[str]:
    yield f"{benchmark.title}, {benchmark.num_landmarks} landmarks"
    header = ("split", "faces", "official", "photos", "unannotated points", "occluded points", "points outside")
    rows = [header, *(_table_row(split, benchmark) for split in splits)]
    widths = [max(map(len, column)) for column in zip(*rows, strict=True)]
    for name, *numbers in rows:
        yield "  ".join([name.ljust(widths[0]), *(n.rjust(w) for n, w in zip(numbers, widths[1:], strict=True))])


def _table_row(split: _Split, benchmark: Benchmark) -> tuple[str, ...]:
    numbers = (
        len(split.image_ids),
        benchmark.splits.get(split.name),
        len(set(split.digests)),
        (~split.annotated).sum(),
        None if split.occluded is None else split.occluded.astype(bool).sum(),
        (_distances_outside(split) > 0).sum(),
    )
    return (split.name, *("-" if number is None else f"{number:,}" for number in numbers))


def _subsets(splits: Mapping[str, datasets.Dataset], benchmark: Benchmark) -> Iterator[str]:
    for name, subset in benchmark.subsets.items():
        found = _count_subset(splits, subset)
        if found is not None:
            official = "" if subset.faces is None else f", official {subset.faces:,}"
            yield f"subset {name}: {found:,} faces{official}"


def _count_subset(splits: Mapping[str, datasets.Dataset], subset) -> int | None:
    """Number of its faces; None where a split or the column is not there."""
    parts = [splits.get(name) for name in subset.splits.split("+")]
    if any(part is None or (subset.column and subset.column not in part.features) for part in parts):
        return None
    if not subset.column:
        return sum(map(len, parts))
    return sum(value == subset.value for part in parts for value in part[subset.column])


def _wrong_counts(splits: Mapping[str, datasets.Dataset], benchmark: Benchmark) -> Iterator[_Finding]:
    for name, official in benchmark.splits.items():
        if name not in splits:
            yield _Finding(f"{name}: not there, official {official:,} faces", fault=False)
        elif len(splits[name]) != official:
            yield _Finding(f"{name}: {len(splits[name]):,} faces found, official {official:,}", fault=False)
    for name, subset in benchmark.subsets.items():
        found = _count_subset(splits, subset)
        if None not in (found, subset.faces) and found != subset.faces:
            yield _Finding(f"subset {name}: {found:,} faces found, official {subset.faces:,}", fault=False)


# Points and boxes ------------------------------------------------------------------------------------------------


def _points_outside(split: _Split) -> Iterator[_Finding]:
    distances = _distances_outside(split)
    worst = distances.max(axis=1, initial=0)
    if (worst > 0).any():
        face = int(worst.argmax())
        points, faces = _number((distances > 0).sum(), "point"), _number((worst > 0).sum(), "face")
        yield _Finding(
            f"{split.name}: {points} of {faces} outside the photo, the furthest by {worst[face]:.1f} px: "
            f"{split.image_ids[face]}, landmark {int(distances[face].argmax())}",
            fault=False,
        )
    far = worst > FAR_OUTSIDE * BOX_ENLARGEMENT * _sides(split.crop_boxes)
    rows = [f"{split.image_ids[face]} by {worst[face]:.1f} px" for face in np.flatnonzero(far)]
    if rows:
        yield _Finding(
            f"{split.name}: {_number(len(rows), 'face')} with points outside the photo by more than half the side of "
            f"the crop: {_examples(rows)}",
            fault=True,
        )


def _distances_outside(split: _Split) -> np.ndarray:
    """(N, K): how far each annotated point is from the photo in x or y, whichever is further; 0 inside."""
    beyond = np.maximum(-0.5 - split.landmarks, split.landmarks - (split.sizes[:, None] - 0.5))
    return np.where(split.annotated, np.clip(beyond, 0, None).max(axis=-1), 0)


def _bad_boxes(split: _Split, benchmark: Benchmark) -> Iterator[_Finding]:
    """Faults where crops are made from them, else warnings."""
    unboxed = np.isnan(split.boxes).any(axis=1)
    for kind, boxes in (("landmark_box", split.landmark_boxes), ("box", split.boxes)):
        cropped = np.full(len(boxes), kind == benchmark.crop_box) | (unboxed & (kind == "landmark_box"))
        given = ~np.isnan(boxes).all(axis=1)
        for bad, what in _kinds_of_bad_boxes(kind, boxes, split):
            for fault, which in ((True, cropped), (False, ~cropped)):
                places = np.flatnonzero(bad & given & which)
                rows = [f"{split.image_ids[face]} {_rounded(boxes[face])}" for face in places]
                if rows:
                    text = f"{split.name}: {_number(len(rows), 'face')} with {what}: {_examples(rows)}"
                    yield _Finding(text, fault)


def _kinds_of_bad_boxes(kind: str, boxes: np.ndarray, split: _Split) -> Iterator[tuple[np.ndarray, str]]:
    """Which of the boxes (N, 4) are bad, (N,), in each way."""
    name = "a landmark box" if kind == "landmark_box" else "an annotated box"
    empty = ~((boxes[:, 2:] > boxes[:, :2]).all(axis=1) & np.isfinite(boxes).all(axis=1))
    yield empty, f"{name} without area"
    yield ~empty & (_sides(boxes) < SMALL_BOX), f"{name} of less than {SMALL_BOX} px"
    if kind == "box":
        within = (split.landmarks >= boxes[:, None, :2]) & (split.landmarks <= boxes[:, None, 2:])
        held, annotated = within.all(axis=-1).sum(axis=1), split.annotated.sum(axis=1)
        yield ~empty & (2 * held < annotated), f"{name} that holds less than half of the landmarks"
        ratios = _sides(boxes) / np.maximum(_sides(split.landmark_boxes), 1)
        usual = (
            np.quantile(ratios[~empty], 0.5, method="lower") if (~empty).any() else 1.0
        )  # large where the landmarks are few and close
        large = ratios > LARGE_BOX * max(1.0, usual)
        enough = 2 * annotated >= split.landmarks.shape[1]  # two landmarks of a profile are close together
        yield ~empty & large & enough, f"{name} of more than {LARGE_BOX} times the usual size beside the landmark box"


def _sides(boxes: np.ndarray) -> np.ndarray:
    """Longer sides (N,) of boxes (N, 4)."""
    return (boxes[:, 2:] - boxes[:, :2]).max(axis=1)


# Photos and pairs ------------------------------------------------------------------------------------------------


def _shared_photos(splits: list[_Split], benchmark: Benchmark) -> Iterator[_Finding]:
    for first, second in itertools.combinations(splits, 2):
        for how, shared in (
            ("with equal files", _equal_files(first, second)),
            ("by image_id", _equal_ids(first, second)),
        ):
            if shared:
                text = (
                    f"{first.name} and {second.name} share {_number(len(shared), 'photo')} {how}: {_examples(shared)}"
                )
                yield _Finding(text, fault=not benchmark.shares_photos)


def _equal_files(first: _Split, second: _Split) -> list[str]:
    names = [dict(zip(split.digests, split.image_ids, strict=True)) for split in (first, second)]
    return [f"{name} is {names[1][digest]}" for digest, name in names[0].items() if digest in names[1]]


def _equal_ids(first: _Split, second: _Split) -> list[str]:
    return sorted(set(_own_ids(first)) & set(_own_ids(second)))


def _own_ids(split: _Split) -> list[str]:
    """The `image_id`s; empty if the data set has none and `load_faces` has numbered the faces."""
    numbered = all(image_id == f"{number:06d}" for number, image_id in enumerate(split.image_ids))
    return [] if numbered else split.image_ids


def _compared(mirrored: MirroredMean | None, benchmark: Benchmark) -> str:
    """The number of flip pairs compared, and the mean face that they were compared on."""
    if mirrored is None:
        return "flip pairs: too few faces to compare them"
    compared = f"flip pairs: {len(benchmark.flip_pairs)} compared on the mean of {mirrored.faces:,} faces"
    lacking = [benchmark.landmark_names[landmark] for landmark in np.flatnonzero(np.isnan(mirrored.errors))]
    return compared + (f", which lacks {_examples(lacking)}" if lacking else "")


def _odd_pairs(mirrored: MirroredMean | None, benchmark: Benchmark) -> Iterator[_Finding]:
    for odd in odd_partners(mirrored, benchmark.flip_pairs) if mirrored else ():
        yield _Finding(_describe(odd, benchmark), fault=True)


def _in_crops(split: _Split) -> np.ndarray:
    """The landmarks (M, K, 2) of the faces that can be cropped, as fractions of their crops."""
    points = []
    for box, landmarks in zip(split.crop_boxes, split.landmarks, strict=True):
        try:
            points.append(pixels_to_fractions(transform_points(crop_matrix(check_box(box), 1), landmarks), 1))
        except ValueError:  # reported among the boxes
            continue
    return np.array(points).reshape(-1, *split.landmarks.shape[1:])


def _describe(odd: OddPartner, benchmark: Benchmark) -> str:
    def name(landmark: int) -> str:
        return f"{landmark} ({benchmark.landmark_names[landmark]})"

    pair = f"pair {name(odd.landmark)} and {name(odd.partner)}"
    if odd.partner == odd.landmark:
        pair = f"landmark {name(odd.landmark)}, in no pair,"
    where = f"the mirror image of {odd.landmark} is {odd.distance:.3f} of the crop's side from {odd.partner}"
    if odd.nearest != odd.partner:
        where += f", {odd.nearest_distance:.3f} from {name(odd.nearest)}"
    return f"{pair} does not look symmetric on the mean face: {where}"


# Words -----------------------------------------------------------------------------------------------------------


def _rounded(box: np.ndarray) -> str:
    return "(" + ", ".join(f"{value:.6g}" for value in box) + ")"


def _number(count: int, what: str) -> str:
    return f"{count:,} {what}" + ("" if count == 1 else "s")


def _examples(rows: Iterable[str]) -> str:
    rows = list(rows)
    more = len(rows) - _EXAMPLES
    return "; ".join(rows[:_EXAMPLES]) + (f"; and {more:,} more" if more > 0 else "")
