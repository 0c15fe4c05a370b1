import dataclasses
import io
import itertools
import re
from pathlib import Path

import datasets
import numpy as np
import pytest
from PIL import Image

from dataset_scripts import BENCHMARKS, load_faces
from dataset_scripts.__main__ import main
from dataset_scripts.benchmark_facts import Part, Subset
from dataset_scripts.check import check_faces
from dataset_scripts.face_builder import box_in_whole_pixels, face_features
from dataset_scripts.symmetry import mirrored_mean, odd_partners
from modeling_mtld.geometry_mtld import crop_matrix, pixels_to_fractions, transform_points

SHARED = Path(__file__).resolve().parents[2] / "shared" / "data"
# Two eyes, a nose, two mouth corners, on photos of 160 x 150.
LANDMARKS = np.array([[60.0, 50], [100, 50], [80, 70], [65, 90], [95, 90]])
BENCHMARK = dataclasses.replace(
    BENCHMARKS["300w"],
    name="five",
    title="Five",
    landmark_names=("right_eye", "left_eye", "nose", "right_mouth", "left_mouth"),
    flip_pairs=((0, 1), (3, 4)),
    parts={"mouth": Part((3, 4))},
    splits={},
    subsets={},
    columns={},
)
WITH_BOX = dataclasses.replace(BENCHMARK, crop_box="box")
BOX = [50.0, 40, 110, 100]


@pytest.fixture(autouse=True)
def cache(tmp_path, monkeypatch):
    monkeypatch.setattr(datasets.config, "HF_DATASETS_CACHE", tmp_path / "cache")


def photo(seed, size=(160, 150)):
    return Image.fromarray(np.random.default_rng(seed).integers(0, 256, (*size[::-1], 3), dtype=np.uint8))


def faces_of(count=3, seed=0, benchmark=BENCHMARK, **columns):
    """Faces of equal landmarks on different photos; `columns` replaces whole columns or the value of every face."""
    rows = {
        "landmarks": [LANDMARKS] * count,
        "box": [BOX] * count,
        "image_id": [f"{seed}/{number}" for number in range(count)],
        "image": [photo((seed, number)) for number in range(count)],
    }
    rows |= {name: value if isinstance(value, list) else [value] * count for name, value in columns.items()}
    rows.setdefault("landmark_box", [box_in_whole_pixels(points) for points in rows["landmarks"]])
    return datasets.Dataset.from_dict(rows, features=face_features(benchmark))


def changed(landmark, x, y):
    landmarks = LANDMARKS.copy()
    landmarks[landmark] = x, y
    return landmarks


def only(lines, *words):
    """The one line there is, which holds these words."""
    assert len(lines) == 1 and all(word in lines[0] for word in words), lines
    return lines[0]


def test_nothing_to_report():
    report = check_faces({"train": faces_of(seed=0), "test": faces_of(seed=1)}, BENCHMARK)
    assert report.warnings == report.faults == ()
    assert str(report).endswith("Warnings: none\n\nFaults: none")
    with pytest.raises(ValueError, match="splits must hold at least one split, but got none"):
        check_faces({}, BENCHMARK)


# Counts ----------------------------------------------------------------------------------------------------------


def test_counts_beside_the_official_ones():
    benchmark = dataclasses.replace(
        BENCHMARK,
        occlusion=True,
        splits={"train": 4, "common": 2, "private": 1},
        subsets={
            "full": Subset("common+challenging", 9),
            "hard": Subset("common", 1, "source", "x"),
            "both": Subset("train+common", 5),
        },
        columns={"source": BENCHMARKS["300w"].columns["source"]},
    )
    landmarks = [LANDMARKS, changed(2, np.nan, np.nan), LANDMARKS]
    same = [photo(7), photo(7), photo(8)]
    seen = {"occluded": [[False, True, True, False, False]] * 3, "source": ["x", "x", "y"]}
    train = faces_of(3, 0, benchmark, landmarks=landmarks, image=same, image_id=["a", "a", "b"], **seen)
    common = faces_of(2, 1, benchmark, occluded=[[False] * 5] * 2, source=["x", "y"])
    report = check_faces({"train": train, "common": common}, benchmark)
    rows = {line.split()[0]: line.split()[1:] for line in report.counts[2:4]}
    # faces, official, photos, unannotated, occluded, outside
    assert rows == {"train": ["3", "4", "2", "1", "6", "0"], "common": ["2", "2", "2", "0", "0", "0"]}
    assert "subset hard: 1 faces, official 1" in report.counts and "subset both: 5 faces, official 5" in report.counts
    assert not any("full" in line for line in report.counts)
    assert report.warnings == ("train: 3 faces found, official 4", "private: not there, official 1 faces")
    assert report.faults == ()


def test_wrong_subset_is_a_warning():
    benchmark = dataclasses.replace(BENCHMARK, subsets={"all": Subset("train", 5)})
    report = check_faces({"train": faces_of()}, benchmark)
    assert report.warnings == ("subset all: 3 faces found, official 5",) and report.faults == ()


# Points and boxes ------------------------------------------------------------------------------------------------


def test_points_outside_the_photo():
    """The photo is (-0.5, -0.5, W - 0.5, H - 0.5)."""
    inside = np.array([[-0.5, 50], [159.5, 50], [80, -0.5], [-0.5, 149.5], [95, 90]])
    outside = [inside, inside + [0, 1], LANDMARKS + [0, -53]]
    unboxed = [[np.nan] * 4]
    assert check_faces({"train": faces_of(1, landmarks=[inside], box=unboxed)}, BENCHMARK).warnings == ()
    report = check_faces({"train": faces_of(3, landmarks=outside, box=unboxed * 3)}, BENCHMARK)
    only(report.warnings, "train: 3 points of 2 faces outside", "furthest by 2.5 px: 0/2, landmark 0")
    assert report.counts[2].split()[-1] == "3" and report.faults == ()


def test_point_far_outside_is_a_fault():
    report = check_faces({"train": faces_of(3, landmarks=[LANDMARKS, changed(4, 950, 90), LANDMARKS])}, BENCHMARK)
    only(report.faults, "train: 1 face with points outside", "more than half the side of the crop: 0/1 by 790.5 px")


@pytest.mark.parametrize("kind", ["PNG", "TIFF"])
def test_photo_turned_by_exif(kind):
    """`datasets` shows it turned, and the landmarks are those of the picture that it shows."""
    exif = Image.Exif()
    exif[Image.ExifTags.Base.Orientation] = 6
    stored = io.BytesIO()
    photo(0, (150, 160)).save(stored, kind, exif=exif)
    faces = faces_of(1, landmarks=[changed(4, 155, 90)]).remove_columns("image")
    faces = faces.add_column("image", [{"bytes": stored.getvalue(), "path": None}])
    faces = faces.cast_column("image", datasets.Image(mode="RGB"))
    assert faces[0]["image"].size == (160, 150)
    assert check_faces({"train": faces}, BENCHMARK).warnings == ()


@pytest.mark.parametrize(
    ("box", "words"),
    [
        ([70, 50, 70, 90], "an annotated box without area: 0/1 (70, 50, 70, 90)"),
        ([90, 50, 70, 90], "an annotated box without area"),
        ([70, 50, np.nan, 90], "an annotated box without area"),
        ([70, 60, 78, 69], "an annotated box of less than 10 px"),
        ([110, 110, 140, 140], "an annotated box that holds less than half of the landmarks"),
        ([-200, -200, 300, 300], "an annotated box of more than 5 times the usual size beside the landmark box"),
    ],
)
def test_bad_annotated_boxes(box, words):
    """A fault where crops are made from them."""
    faces = faces_of(box=[BOX, box, [np.nan] * 4])
    warned, faulty = check_faces({"train": faces}, BENCHMARK), check_faces({"train": faces}, WITH_BOX)
    assert warned.faults == faulty.warnings == ()
    assert any(words in line and "train: 1 face with" in line for line in warned.warnings)
    assert any(words in line and "train: 1 face with" in line for line in faulty.faults)


def test_bad_landmark_boxes():
    boxes = [[60, 50, 100, 90], [60, 50, 60, 90], [60, 50, 69, 58]]
    faults = check_faces({"train": faces_of(landmark_box=boxes)}, BENCHMARK).faults
    assert [line.split(": ")[1] for line in faults] == [
        "1 face with a landmark box without area",
        "1 face with a landmark box of less than 10 px",
    ]
    assert len(check_faces({"train": faces_of(landmark_box=boxes)}, WITH_BOX).warnings) == 2
    unboxed = faces_of(landmark_box=boxes, box=[[np.nan] * 4] * 3)
    assert len(check_faces({"train": unboxed}, WITH_BOX).faults) == 2


def test_long_lists_are_cut():
    report = check_faces({"train": faces_of(9, box=[[70.0, 50, 70, 90]] * 9)}, WITH_BOX)
    line = only([line for line in report.faults if "area" in line], "9 faces", "0/4", "and 4 more")
    assert "0/5" not in line


# Shared photos ---------------------------------------------------------------------------------------------------


def test_photos_shared_by_image_id_or_by_their_files():
    train = faces_of(3, 0, image_id=["a", "b", "c"])
    test = faces_of(3, 1, image_id=["x", "b", "z"], image=[photo((0, 0)), photo(8), photo(9)])
    faults = check_faces({"train": train, "test": test, "more": faces_of(1, 2)}, BENCHMARK).faults
    assert faults == (
        "train and test share 1 photo with equal files: a is x",
        "train and test share 1 photo by image_id: b",
    )


def test_faces_of_one_photo_within_a_split_and_made_up_names_are_not_reported(tmp_path):
    (tmp_path / "data").mkdir()
    for split, seed in (("train", 0), ("test", 1)):
        faces = faces_of(3, seed).remove_columns("image_id")
        faces.to_parquet(tmp_path / "data" / f"{split}-00000-of-00001.parquet")
    splits = {split: load_faces(BENCHMARK, tmp_path, split) for split in ("train", "test")}
    assert splits["train"]["image_id"][:] == splits["test"]["image_id"][:]
    assert check_faces(splits, BENCHMARK).faults == ()
    assert check_faces({"train": faces_of(2, image=[photo(0)] * 2, image_id=["a"] * 2)}, BENCHMARK).faults == ()


def test_photos_in_files_and_one_that_is_damaged(tmp_path):
    paths = [tmp_path / name for name in ("a.png", "b.jpg", "c.png")]
    for number, path in enumerate(paths):
        photo(number).save(path)
    splits = {"train": faces_of(3, image=[str(path) for path in paths])}
    splits["test"] = faces_of(1, 1, image=[str(paths[1])])
    only(check_faces(splits, BENCHMARK).faults, "share 1 photo with equal files: 0/1 is 1/0")
    paths[1].write_bytes(b"no photo")
    with pytest.raises(ValueError, match=r"photo 0/1 of train must be an image, but got"):
        check_faces(splits, BENCHMARK)


# Flip pairs ------------------------------------------------------------------------------------------------------


def symmetric_faces(benchmark, count=40):
    """Faces (count, K, 2) around one whose flip pairs are mirror images, turned by 5 degrees as a whole."""
    rng = np.random.default_rng(0)
    points = np.zeros((benchmark.num_landmarks, 2))
    # A grid, so that no two landmarks are near to each other; those in no pair on the mirror axis.
    cells = [(x, y) for y in np.linspace(0.05, 0.95, 10) for x in np.linspace(0.07, 0.42, 6)]
    alone = set(range(len(points))) - set(itertools.chain(*benchmark.flip_pairs))
    for (first, second), (x, y) in zip(benchmark.flip_pairs, cells, strict=False):
        points[first], points[second] = (0.5 - x, y), (0.5 + x, y)
    for landmark, y in zip(sorted(alone), np.linspace(0.02, 0.98, len(alone)), strict=True):
        points[landmark] = 0.5, y
    turn = np.deg2rad(5)
    points = points @ [[np.cos(turn), np.sin(turn)], [-np.sin(turn), np.cos(turn)]]
    return points + rng.normal(0, 0.01, (count, len(points), 2))


def wrong_tables(pairs):
    """Every table with one pair missing, and every one with two pairs mixed up."""
    for pair in pairs:
        yield [other for other in pairs if other != pair]
    for (a, b), (c, d) in itertools.combinations(pairs, 2):
        rest = [pair for pair in pairs if pair not in ((a, b), (c, d))]
        yield [*rest, (a, d), (c, b)]
        yield [*rest, (a, c), (b, d)]


@pytest.mark.parametrize("name", BENCHMARKS)
def test_pairs_of_every_benchmark_against_a_symmetric_face(name):
    pairs = BENCHMARKS[name].flip_pairs
    mirrored = mirrored_mean(symmetric_faces(BENCHMARKS[name]))
    assert odd_partners(mirrored, pairs) == []
    assert all(odd_partners(mirrored, wrong) for wrong in wrong_tables(pairs))


def test_profiles_do_not_hide_a_missing_pair():
    """Landmarks of one side are lacking in faces seen from the side, which moves the means of the others."""
    rng = np.random.default_rng(0)
    faces = np.repeat(pixels_to_fractions(LANDMARKS[None], 160), 300, axis=0) + rng.normal(0, 0.005, (300, 5, 2))
    faces[:200, [0, 3]] = np.nan
    faces[:200, [1, 4]] -= [0.2, 0]
    mirrored = mirrored_mean(faces)
    assert mirrored.faces == 100 and odd_partners(mirrored, BENCHMARK.flip_pairs) == []
    assert len(odd_partners(mirrored, [(0, 1)])) == 2


def test_noise_and_few_faces_are_no_fault():
    assert mirrored_mean(np.full((9, 5, 2), np.nan)) is None and mirrored_mean(LANDMARKS[None]) is None
    for seed in range(20):
        noise = np.random.default_rng(seed).uniform(0, 1, (4, 5, 2))
        assert odd_partners(mirrored_mean(noise), BENCHMARK.flip_pairs) == []


def test_landmark_that_no_face_has():
    landmarks = changed(4, np.nan, np.nan)
    report = check_faces({"train": faces_of(landmarks=[landmarks] * 3)}, BENCHMARK)
    assert report.counts[-1] == "flip pairs: 2 compared on the mean of 3 faces, which lacks left_mouth"


def test_odd_pairs_are_named():
    faces = {"train": faces_of(2)}
    benchmark = dataclasses.replace(BENCHMARK, flip_pairs=((0, 4), (3, 1)))
    faults = check_faces(faces, benchmark).faults
    assert len(faults) == 2
    assert faults[0].startswith("pair 0 (right_eye) and 4 (left_mouth) does not look symmetric on the mean face: ")
    assert "from 1 (left_eye)" in faults[0]
    faults = check_faces(faces, dataclasses.replace(BENCHMARK, flip_pairs=((0, 1),))).faults
    assert len(faults) == 2 and faults[0].startswith("landmark 3 (right_mouth), in no pair, does not look symmetric")
    lonely = np.concatenate([LANDMARKS, [[70, 80]]])
    mirrored = mirrored_mean(pixels_to_fractions(np.stack([lonely, lonely]), 100))
    assert [odd.landmark for odd in odd_partners(mirrored, BENCHMARK.flip_pairs)] == [5]


# Real faces ------------------------------------------------------------------------------------------------------


def real_crops(benchmark, folder, split, count=600):
    faces = load_faces(benchmark, SHARED / folder, split, streaming=True)
    faces = faces.select_columns(["landmarks", "landmark_box"]).take(count).with_format("numpy")
    return np.array(
        [
            pixels_to_fractions(transform_points(crop_matrix(face["landmark_box"], 1), face["landmarks"]), 1)
            for face in faces
        ]
    )


@pytest.mark.skipif(not (SHARED / "300w").is_dir(), reason="needs ../shared/data/300w")
def test_pairs_of_real_300w():
    benchmark = BENCHMARKS["300w"]
    mirrored = mirrored_mean(real_crops(benchmark, "300w", "train"))
    assert odd_partners(mirrored, benchmark.flip_pairs) == []
    assert all(odd_partners(mirrored, wrong) for wrong in wrong_tables(benchmark.flip_pairs))


@pytest.mark.skipif(not (SHARED / "aflw_crops").is_dir(), reason="needs ../shared/data/aflw_crops")
def test_pairs_of_real_aflw():
    benchmark = BENCHMARKS["aflw21"]
    mirrored = mirrored_mean(real_crops(benchmark, "aflw_crops", "test"))
    assert odd_partners(mirrored, benchmark.flip_pairs) == []
    assert all(odd_partners(mirrored, wrong) for wrong in wrong_tables(benchmark.flip_pairs))


# Command line ----------------------------------------------------------------------------------------------------


@pytest.fixture
def converted(tmp_path):
    """Converted faces of 300W's 68 landmarks: a train split, and a test split with a photo of it."""
    benchmark = dataclasses.replace(BENCHMARKS["300w"], columns={})
    points = symmetric_faces(benchmark, 6) * 100 + 25
    (tmp_path / "raw" / "data").mkdir(parents=True)
    for split, part, seed in (("train", slice(0, 4), 0), ("common", slice(4, 6), 1)):
        faces = faces_of(len(points[part]), seed, benchmark, landmarks=list(points[part]))
        faces.to_parquet(tmp_path / "raw" / "data" / f"{split}-00000-of-00001.parquet")
    return tmp_path / "raw"


def test_looking_writes_the_picture_alone(converted, tmp_path, capsys):
    picture = tmp_path / "look" / "faces.png"
    assert main(["300w", "--data_dir", str(converted), "--preview", str(picture), "--check"]) == 0
    printed = capsys.readouterr().out
    assert "train: 4 faces found, official 3,148" in printed and "Faults: none" in printed
    assert printed.index("train ") < printed.index("common ")
    assert {path.name for path in tmp_path.iterdir()} == {"raw", "look", "cache"}
    assert [path.name for path in picture.parent.iterdir()] == ["faces.png"]
    assert main(["300w", "--data_dir", str(converted), "--check"]) == 0


def test_faults_give_status_1(converted, capsys):
    faces = datasets.Dataset.from_parquet(str(converted / "data" / "train-00000-of-00001.parquet"))
    faces.to_parquet(converted / "data" / "common-00000-of-00001.parquet")
    assert main(["300w", "--data_dir", str(converted), "--check"]) == 1
    assert "train and common share 4 photos with equal files" in capsys.readouterr().out


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (["301w", "--check"], "dataset must be one of 300w, wflw, .* or a YAML file of your own landmarks.*'301w'"),
        (["nowhere.yaml", "--check"], r"dataset must be an existing YAML file, but got nowhere\.yaml"),
        (["300w", "--check"], "--data_dir must be the folder of 300W, but got none. From https://"),
        (["300w", "--data_dir", "RAW"], "--output_dir must be given, or one of --preview, --check and --download"),
        (["300w", "--data_dir", "RAW", "--check", "--push_to_hub", "a/b"], "--output_dir must be given with --push"),
        (
            ["300w", "--data_dir", "RAW", "--output_dir", "OUT", "--public"],
            "--public must be given with --push_to_hub",
        ),
        (["300w", "--data_dir", "RAW", "--preview", "OUT.txt"], r"preview must be a file ending in \.png"),
        (["300w", "--data_dir", "nowhere", "--preview", "OUT.png"], "data_dir must be an existing folder.*nowhere"),
    ],
)
def test_wrong_options_give_one_line_and_status_2(converted, tmp_path, monkeypatch, capsys, options, message):
    monkeypatch.chdir(tmp_path)
    before = {path.name for path in tmp_path.iterdir()}
    assert main([option.replace("RAW", str(converted)) for option in options]) == 2
    line = only(capsys.readouterr().err.splitlines(), "error: ")
    assert re.search(message, line)
    assert {path.name for path in tmp_path.iterdir()} == before


def test_own_landmarks_by_a_yaml_file(tmp_path, monkeypatch, capsys):
    """Its folder is the data's by default."""
    rng = np.random.default_rng(0)
    for number in range(3):
        photo(number).save(tmp_path / f"{number}.png")
    rows = [LANDMARKS + rng.normal(0, 0.2, (5, 2)) for _ in range(3)]
    lines = [f'{{"file_name": "{n}.png", "landmarks": {row.tolist()}}}' for n, row in enumerate(rows)]
    (tmp_path / "metadata.jsonl").write_text("\n".join(lines) + "\n")
    (tmp_path / "five.yaml").write_text(
        "landmarks: [a, b, c, d, e]\nflip_pairs: [[a, b], [d, e]]\nnormalizer: [a, b]\nparts: {mouth: [d, e]}\n"
    )
    monkeypatch.chdir(tmp_path)
    assert main(["five.yaml", "--check", "--preview", "five.png"]) == 0
    assert "five, 5 landmarks" in capsys.readouterr().out and (tmp_path / "five.png").is_file()
    (tmp_path / "five.yaml").write_text((tmp_path / "five.yaml").read_text().replace("[[a, b], [d, e]]", "[[a, b]]"))
    assert main(["five.yaml", "--check"]) == 1
    assert "landmark 3 (d), in no pair, does not look symmetric" in capsys.readouterr().out
    assert main(["five.yaml", "--output_dir", "out"]) == 0
    assert main(["out/landmarks.yaml", "--check"]) == 1


def test_data_of_the_hub_by_name(monkeypatch, converted, capsys):
    asked = []

    def builder(repo_id, **options):
        asked.append(repo_id)
        return original("parquet", data_files={"train": str(converted / "data" / "train-00000-of-00001.parquet")})

    original = datasets.load_dataset_builder
    monkeypatch.setattr(datasets, "load_dataset_builder", builder)
    assert main(["300w", "--data_dir", "lab/300w", "--check"]) == 0
    assert set(asked) == {"lab/300w"} and "train: 4 faces found" in capsys.readouterr().out
