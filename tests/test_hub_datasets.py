"""Data sets on the Hub, pushed, read, streamed and trained on by processes that know a stub on localhost for it."""

import json
import re

import datasets
import numpy as np
import pytest
from datasets.info import DatasetInfosDict
from hub_stub import metadata_errors, run_with_hub, running_hub
from huggingface_hub import DatasetCard
from PIL import Image

from dataset_scripts.benchmarks import BENCHMARKS
from dataset_scripts.face_builder import face_features

SIZES = {"train": 6, "common": 3, "challenging": 2}
FOLDERS = {"train": "afw", "common": "helen/testset", "challenging": "ibug"}

PUSHING = """
import contextlib, io, json, os
from dataset_scripts import conversion
from dataset_scripts.__main__ import main

outcomes = {}


def push(name, command, token="stub", faces_in_shard=1000):
    os.environ["HF_TOKEN"] = token
    conversion._FACES_IN_SHARD = faces_in_shard
    with contextlib.redirect_stderr(io.StringIO()) as errors, contextlib.redirect_stdout(io.StringIO()) as printed:
        status = main([*command.split(), "--output_dir", name])
    outcomes[name] = {
        "status": status,
        "printed": printed.getvalue(),
        "error": errors.getvalue().replace("\\r", "\\n").split("\\n")[-2] if status else None,
        "converted": os.path.exists(name),
    }


raw = "300w --data_dir raw --push_to_hub "
push("shards", raw + "me/300w", faces_in_shard=2)
push("private", raw + "me/300w")
push("public", raw + "me/public --public")
push("public-again", raw + "me/public --public")
push("not-public", raw + "me/public")
push("still-private", raw + "me/300w --public")
push("dolls-parquet", "dolls/landmarks.yaml --push_to_hub me/dolls")
push("no-rights", raw + "you/300w")
push("wrong-token", raw + "me/300w", token="wrong")
push("no-token", raw + "me/300w", token="")
push("no-namespace", raw + "300w")
push("no-name", raw + "me/300w/train")
print(json.dumps(outcomes))
"""

READING = """
import json, logging, os, pickle, time, urllib.request
import datasets, numpy as np
from dataset_scripts import load_faces

outcomes, warnings = {}, []
logging.getLogger("dataset_scripts").addHandler(logging.Handler())
logging.getLogger("dataset_scripts").handlers[0].emit = lambda record: warnings.append(record.getMessage())


def rows(faces):
    return list(faces.with_format("numpy"))


def attempt(name, *args, **options):
    warnings.clear()
    start = time.perf_counter()
    try:
        outcome = {"faces": [face["image_id"] for face in load_faces(*args, **options).remove_columns("image")]}
    except ValueError as error:
        outcome = {"error": str(error)}
    outcomes[name] = outcome | {"warnings": list(warnings), "seconds": time.perf_counter() - start}


def hang_up(pattern):
    request = urllib.request.Request(os.environ["HF_ENDPOINT"] + "/stub/broken", pattern.encode(), method="PUT")
    urllib.request.urlopen(request).close()


def check_same(one, other):
    assert len(one) == len(other) > 0
    for first, second in zip(one, other):
        assert first.keys() == second.keys()
        for column in first:
            np.testing.assert_array_equal(first[column], second[column])
"""

FRESH = """
attempt("stream-first", "300w", "me/300w", "common", streaming=True)
assert not os.path.exists(os.path.join(os.environ["HF_HOME"], "datasets", "me___300w"))  # nothing was prepared
for split in ("train", "common", "full", "train[:3]", "common+train"):
    original = rows(load_faces("300w", "raw", split))
    check_same(rows(load_faces("300w", "me/300w", split)), original)
    if "[" not in split:
        check_same(rows(load_faces("300w", "me/300w", split, streaming=True)), original)
sent = pickle.loads(pickle.dumps(load_faces("300w", "me/300w", "train", streaming=True)))  # as to a worker
check_same(rows(sent), rows(load_faces("300w", "raw", "train")))
for streaming in (False, True):
    own = rows(load_faces("dolls/landmarks.yaml", "me/dolls", "train", streaming=streaming))
    check_same(own, rows(load_faces("dolls/landmarks.yaml", "dolls", "train")))

datasets.config.USE_PARQUET_EXPORT = False  # another host, which the stub does not have
builder = datasets.load_dataset_builder("me/300w", cache_dir="elsewhere")
assert {name: split.num_examples for name, split in builder.info.splits.items()} == SIZES
plain = datasets.load_dataset("me/300w", cache_dir="elsewhere")
for split in SIZES:
    check_same(rows(plain[split]), rows(load_faces("300w", "raw", split)))

attempt("prepared", "300w", "me/300w", "full")
attempt("streamed", "300w", "me/300w", "full", streaming=True)
attempt("wrong split", "300w", "me/300w", "test")
attempt("part of a stream", "300w", "me/300w", "train[:3]", streaming=True)
attempt("another benchmark", "wflw", "me/300w", "train")
attempt("wrong name", "300w", "me/none", "train")
attempt("no such folder", "300w", "folder/that_is_not.there", "train")
os.environ["HF_TOKEN"] = ""
attempt("no token", "300w", "me/300w", "train")
attempt("no token, streamed", "300w", "me/300w", "train", streaming=True)
attempt("public", "300w", "me/public", "common")
os.environ["HF_TOKEN"] = "wrong"
attempt("wrong token", "300w", "me/300w", "train")
print(json.dumps(outcomes))
"""

BREAKING = """
time.sleep = lambda seconds: None  # between the retries of the Hub's client and of datasets
for name, pattern in (("all", "api"), ("card", "README"), ("list", "tree"), ("files", "storage"), ("link", "common")):
    for streaming in (False, True):
        hang_up(pattern)
        key = f"{name}, {'streamed' if streaming else 'prepared'}"
        attempt(key, "300w", "me/300w", "common", cache_dir=key, streaming=streaming)
        hang_up("")
attempt("whole again", "300w", "me/300w", "common", cache_dir="files, prepared")
stream = load_faces("300w", "me/300w", "common+train", streaming=True).shuffle(seed=0, buffer_size=2)
hang_up("storage")
try:
    list(stream)
except ValueError as error:
    outcomes["shuffled"] = {"error": str(error)}
hang_up("")
attempt("more announced", "300w", "me/more", "train")
attempt("split missing", "300w", "me/less", "train")
print(json.dumps(outcomes))
"""

OFFLINE = """
attempt("prepared", "300w", "me/300w", "common")
attempt("some", "300w", "me/300w", "train[:2]")
attempt("streamed", "300w", "me/300w", "full", streaming=True)
attempt("wrong split", "300w", "me/300w", "test")
attempt("never seen", "300w", "me/never", "train")
print(json.dumps(outcomes))
"""

TRAINING = """
import datasets
import train_accelerate

datasets.config.SLEEP_TIME_ON_THREADS_SHUTDOWN = 0.1  # after each pass over a shuffled stream of Parquet, else 5
status = train_accelerate.run(WORDS)
assert status == 0, status
"""


def write_face(path, seed):
    rng = np.random.default_rng(seed)
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.fromarray(rng.integers(0, 256, (48, 64, 3), dtype=np.uint8)).save(path)
    rows = "\n".join(f"{x:.3f} {y:.3f}" for x, y in rng.uniform([6, 6], [58, 42], (68, 2)))
    path.with_suffix(".pts").write_text(f"version: 1\nn_points: 68\n{{\n{rows}\n}}\n")


def write_dolls(folder):
    folder.mkdir()
    for index in range(2):
        Image.new("RGB", (40, 30), (index, 2, 3)).save(folder / f"{index}.png")
    rows = [{"file_name": f"{index}.png", "landmarks": [[5, 6.5], None, [20, 25]]} for index in range(2)]
    (folder / "metadata.jsonl").write_text("\n".join(map(json.dumps, rows)))
    (folder / "landmarks.yaml").write_text("landmarks: [a, b, c]\nflip_pairs: [[a, b]]\nnormalizer: box\n")


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    folder = tmp_path_factory.mktemp("hub")
    for number, (split, size) in enumerate(SIZES.items()):
        for index in range(size):
            write_face(folder / "raw" / FOLDERS[split] / f"{index}_1.png", 10 * number + index)
    write_dolls(folder / "dolls")
    return folder


@pytest.fixture(scope="module")
def hub():
    with running_hub() as hub:
        yield hub


@pytest.fixture(scope="module")
def pushed(hub, folder):
    """What became of each push, by the name of its folder."""
    return json.loads(run_with_hub(hub, folder, "home", PUSHING))


@pytest.fixture(scope="module")
def read(hub, folder, pushed):
    """What a machine that has nothing yet could read."""
    return json.loads(run_with_hub(hub, folder, "other", READING + f"SIZES = {SIZES}\n" + FRESH))


def one_line(outcome, *parts) -> bool:
    error = outcome["error"]
    return "\n" not in error and all(part in error for part in parts)


# Pushing ---------------------------------------------------------------------------------------------------------


def test_a_data_set_is_private_unless_told_otherwise(hub, pushed):
    assert hub.repositories["datasets/me/300w"].private and hub.repositories["datasets/me/dolls"].private
    assert not hub.repositories["datasets/me/public"].private
    assert pushed["private"]["status"] == 0 and f"{hub.url}/datasets/me/300w" in pushed["private"]["printed"]


def test_faces_are_not_shown_to_everybody_by_a_later_push(hub, pushed):
    assert pushed["public-again"]["status"] == 0
    assert pushed["not-public"]["status"] == 2 and not pushed["not-public"]["converted"]
    assert one_line(pushed["not-public"], "error: push_to_hub must", "private", "--public", "me/public")
    assert pushed["still-private"]["status"] == 0 and hub.repositories["datasets/me/300w"].private


def test_what_is_pushed_is_what_was_written(hub, folder, pushed):
    for name, written in (("me/300w", "private"), ("me/public", "public"), ("me/dolls", "dolls-parquet")):
        files = hub.files(f"datasets/{name}")
        local = {path.relative_to(folder / written).as_posix(): path for path in (folder / written).rglob("*.*")}
        assert files.keys() == local.keys()
        assert all(files[path] == local[path].read_bytes() for path in files)
    assert "landmarks.yaml" in hub.files("datasets/me/dolls")


def test_parquet_is_kept_as_large_files_and_each_push_is_one_commit(hub, pushed):
    repository = hub.repositories["datasets/me/300w"]
    _, first, second, *_ = repository.commits.values()
    assert "data/train-00002-of-00003.parquet" in first
    assert {path for path in second if "train" in path} == {"data/train-00000-of-00001.parquet"}  # no face twice
    assert all(isinstance(file, str) == path.endswith(".parquet") for path, file in second.items())


@pytest.mark.parametrize(
    ("name", "parts"),
    [
        ("wrong-token", ["signing in for me/300w failed", "token"]),
        ("no-token", ["signing in for me/300w failed", "hf auth login"]),
        ("no-namespace", ["push_to_hub must be ORG/NAME, but got '300w'"]),
        ("no-name", ["push_to_hub must be ORG/NAME, but got 'me/300w/train'"]),
    ],
)
def test_what_cannot_be_pushed_is_not_converted(pushed, name, parts):
    assert pushed[name]["status"] == 2 and not pushed[name]["converted"]
    assert one_line(pushed[name], "error: ", *parts)


def test_a_refused_upload_leaves_the_conversion(hub, pushed):
    assert pushed["no-rights"]["status"] == 2 and pushed["no-rights"]["converted"]
    again = "`hf upload you/300w no-rights --repo-type dataset --private`"
    assert one_line(pushed["no-rights"], "no-rights is complete, but its upload to you/300w failed", again, "rights")
    assert "datasets/you/300w" not in hub.repositories


def test_the_card_is_valid_and_tells_columns_and_sizes(hub, pushed):
    for name in ("me/300w", "me/dolls"):
        assert metadata_errors(hub.files(f"datasets/{name}")["README.md"].decode(), "dataset") == ([], [])
    files = hub.files("datasets/me/300w")
    card = DatasetCard(files["README.md"].decode())
    (config,) = card.data.configs
    assert config["data_files"] == [{"split": name, "path": f"data/{name}-*.parquet"} for name in SIZES]
    info = DatasetInfosDict.from_dataset_card_data(card.data)["default"]
    assert info.features == face_features(BENCHMARKS["300w"])
    assert {name: split.num_examples for name, split in info.splits.items()} == SIZES
    assert info.download_size == sum(len(file) for path, file in files.items() if path.endswith(".parquet"))
    assert info.dataset_size == sum(split.num_bytes for split in info.splits.values()) > 0


def test_a_converted_folder_has_its_sizes_before_it_is_read(folder, pushed, tmp_path):
    builder = datasets.load_dataset_builder(str(folder / "private"), cache_dir=str(tmp_path))
    assert builder.info.features == face_features(BENCHMARKS["300w"])
    assert {name: split.num_examples for name, split in builder.info.splits.items()} == SIZES
    loaded = datasets.load_dataset(str(folder / "private"), cache_dir=str(tmp_path))
    for split, announced in builder.info.splits.items():
        assert loaded[split].num_rows == announced.num_examples
        assert loaded[split].data.nbytes == pytest.approx(announced.num_bytes, rel=0.01)


# Reading ---------------------------------------------------------------------------------------------------------


def test_faces_are_read_back_exactly_prepared_and_streamed(read):
    """Compared in the process that reads."""
    expected = [f"{FOLDERS[split]}/{index}_1" for split in ("common", "challenging") for index in range(SIZES[split])]
    assert read["prepared"]["faces"] == read["streamed"]["faces"] == expected


def test_sizes_are_warned_of_when_streaming_too(read):
    warning = ["300W, common: 3 faces found, official 554; challenging: 2 faces found, official 135"]
    assert read["prepared"]["warnings"] == read["streamed"]["warnings"] == warning
    assert read["stream-first"]["warnings"] == ["300W, common: 3 faces found, official 554"]


@pytest.mark.parametrize(
    ("name", "parts"),
    [
        ("wrong split", ["split must be made of train, common, challenging, full for me/300w", "'test'"]),
        ("part of a stream", ["split must be without [...]"]),
        ("another benchmark", ["landmarks of 98 points for wflw", "me/300w"]),
        ("wrong name", ["data_dir must be", "me/none", "none of this name"]),
        ("no such folder", ["data_dir must be an existing folder or", "folder/that_is_not.there"]),
        ("no token", ["data_dir must be", "me/300w", "hf auth login"]),
        ("no token, streamed", ["data_dir must be", "me/300w", "hf auth login"]),
        ("wrong token", ["data_dir must be", "me/300w", "Invalid credentials"]),
    ],
)
def test_what_cannot_be_read_is_one_line_at_once(read, name, parts):
    assert one_line(read[name], *parts)
    assert read[name]["seconds"] < 3


def test_a_public_set_needs_no_token(read):
    assert len(read["public"]["faces"]) == SIZES["common"]


def test_offline_reads_what_is_cached(hub, folder, read):
    asked = len(hub.requests)
    outcomes = json.loads(run_with_hub(hub, folder, "other", READING + OFFLINE, HF_HUB_OFFLINE="1", HF_TOKEN=""))
    assert len(hub.requests) == asked
    assert len(outcomes["prepared"]["faces"]) == SIZES["common"] and len(outcomes["some"]["faces"]) == 2
    assert outcomes["streamed"]["faces"] == read["streamed"]["faces"]
    assert one_line(outcomes["wrong split"], "split must be made of train, common, challenging, full for me/300w")
    assert one_line(outcomes["never seen"], "data_dir must be", "me/never", "Offline")


def test_no_network_is_one_line_at_once(hub, folder, read):
    code = READING + 'attempt("all", "300w", "me/300w", "common")\nprint(json.dumps(outcomes))'
    nobody = "http://127.0.0.1:9"  # refuses connections
    outcome = json.loads(run_with_hub(hub, folder, "other", code, HF_ENDPOINT=nobody))["all"]
    assert one_line(outcome, "data_dir must be", "me/300w", "refused", "HF_HUB_OFFLINE=1") and outcome["seconds"] < 3


def test_the_hub_breaking_off_or_a_wrong_card_is_one_line(hub, folder, pushed):
    repository = hub.repositories["datasets/me/300w"]
    files = repository.commits[repository.branches["main"]]
    more = files["README.md"].replace(b"num_examples: 6", b"num_examples: 7")
    for name, changes in (("more", {"README.md": more}), ("less", {"data/common-00000-of-00001.parquet": None})):
        copy = hub.repositories[f"datasets/me/{name}"] = type(repository)(private=True)
        copy.commit("main", files | changes)
    outcomes = json.loads(run_with_hub(hub, folder, "third", READING + BREAKING))
    assert len(outcomes.pop("whole again")["faces"]) == SIZES["common"]
    assert one_line(outcomes.pop("more announced"), "card announces", "me/more", "num_examples=7")
    assert one_line(outcomes.pop("split missing"), "data_dir must be", "me/less", "common")
    assert len(outcomes) == 11
    for name, outcome in outcomes.items():
        assert one_line(outcome, "data_dir must be", "me/300w"), name


# Training --------------------------------------------------------------------------------------------------------


def test_training_streams_from_the_hub(hub, folder, pushed):
    words = "--dataset 300w --data_dir me/300w --streaming --output_dir model --epochs 1 --batch_size 2 --image_size"
    words += " 64 --backbone test_resnet.r160_in1k --random_backbone --num_workers 0 --mixed_precision no --config"
    words += " hidden_size=16 num_attention_heads=2 intermediate_size=16 decoder_intermediate_size=16"
    code = TRAINING.replace("WORDS", repr(words.split()))
    printed = run_with_hub(hub, folder, "trainer", code, ACCELERATE_USE_CPU="1")
    assert re.search(r"300W common \(3 faces, inter-ocular\): NME \d+\.\d{3}%", printed)
    assert (folder / "model" / "config.json").is_file()
    assert not (folder / "trainer" / "datasets" / "me___300w").exists()
