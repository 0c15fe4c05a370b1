"""Your own landmarks, described by a small YAML file instead of code."""

import re
import reprlib
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path

import yaml

from modeling_mtld.drawing_mtld import contours

from .benchmark_facts import BOX_NORMALIZERS, VISIBILITY, Benchmark, Column, Distance, Part, Subset
from .benchmarks import BENCHMARKS
from .metadata import GROUP, METADATA, near

_KEYS = (
    *("name", "title", "landmarks", "flip_pairs", "normalizer", "crop", "failure_threshold"),
    *("parts", "occluded", "visibility", "groups", "licence", "homepage", "citation"),
)
_REQUIRED = ("landmarks", "flip_pairs", "normalizer")
_CROPS = ("landmark_box", "box")


def find_benchmark(dataset: str | Path | Benchmark) -> Benchmark:
    """The benchmark of a name in `BENCHMARKS` or of a YAML file (see `read_benchmark`).

    Raises:
        ValueError: if it is neither, or the file does not describe landmarks.
    """
    if isinstance(dataset, Benchmark):
        return dataset
    if isinstance(dataset, str) and dataset in BENCHMARKS:
        return BENCHMARKS[dataset]
    if _is_yaml(dataset):
        return read_benchmark(dataset)
    raise ValueError(
        f"dataset must be one of {', '.join(BENCHMARKS)} or a YAML file of your own landmarks, "
        f"but got {str(dataset)!r}"
    )


def default_data_dir(dataset: str | Path | Benchmark) -> Path | None:
    """The folder of a YAML file, where its data are unless another folder is given; None for other data sets."""
    return Path(dataset).expanduser().absolute().parent if _is_yaml(dataset) else None


def _is_yaml(dataset: object) -> bool:
    return isinstance(dataset, (str, Path)) and Path(dataset).suffix.lower() in (".yaml", ".yml")


def read_benchmark(path: str | Path) -> Benchmark:
    """The benchmark that a YAML file of your own landmarks describes.

    Keys, the first three required; a landmark is given by its name or its 0-based index:
        landmarks: K names in the order of the points.
        flip_pairs: pairs of landmarks that change places when a face is mirrored, `[[right_eye, left_eye]]`; [] where
            there are none.
        normalizer: what errors are divided by: two landmarks, or two lists of landmarks, between whose means the
            distance is taken; or `box` or `diagonal` of the box that crops are made from; or several of these by name,
            `{inter-ocular: [right_eye, left_eye]}`, the first being the default. `box` and `diagonal` are always
            available.
        crop: what crops are made from, `landmark_box` (the default) or `box`, that of metadata.jsonl.
        failure_threshold: error, as a fraction, above which a face counts as failed; by default 0.1.
        parts: contours by name: the landmarks to join, or `{landmarks: [...], closed: true}` if the last joins the
            first; by default landmarks whose names differ by a number only (mouth_0, mouth_1).
        occluded: whether metadata.jsonl says which landmarks are occluded; by default false.
        visibility: whether metadata.jsonl says which landmarks the head itself hides; by default false.
        groups: names of groups of faces that are scored by themselves too, such as poses; a row of metadata.jsonl
            gives the `group` of its face.
        name, title: as in files and as in tables; by default the file's stem, or if that is landmarks, its folder.
        licence, homepage, citation: for cards; by default none ("").

    The data have no official number of faces (`splits` is empty) and are scored on the split test.

    Raises:
        ValueError: naming the file, the key and what was found.
    """
    path = Path(path).expanduser()
    if not path.is_file():
        raise ValueError(f"dataset must be an existing YAML file, but got {path}")
    try:
        return _benchmark(_load(path), path)
    except ValueError as error:
        raise ValueError(f"{path}: {error}") from error


def benchmark_yaml(benchmark: Benchmark) -> str:
    """The text of a YAML file for `benchmark`, a result of `read_benchmark`, which reads it as the same benchmark."""
    names = benchmark.landmark_names

    def named(indices: Sequence[int]) -> list[str]:
        return [names[index] for index in indices]

    def end(indices: Sequence[int]) -> str | list[str]:
        return names[indices[0]] if len(indices) == 1 else named(indices)

    values = {
        "name": benchmark.name,
        "title": benchmark.title,
        "landmarks": list(names),
        "flip_pairs": [named(pair) for pair in benchmark.flip_pairs],
        "normalizer": {
            name: [end(kind.first), end(kind.second)] if isinstance(kind, Distance) else name
            for name, kind in benchmark.normalizer_kinds.items()
        },
        "crop": benchmark.crop_box,
        "failure_threshold": benchmark.failure_threshold,
        "parts": {
            name: {"landmarks": named(part.indices), "closed": part.closed} for name, part in benchmark.parts.items()
        },
        "occluded": benchmark.occlusion,
        "visibility": "visibility" in benchmark.columns,
        "groups": list(benchmark.subsets),
        "licence": benchmark.licence,
        "homepage": benchmark.homepage,
        "citation": benchmark.citation,
    }
    given = {key: value for key, value in values.items() if value or key == "flip_pairs"}
    return yaml.safe_dump(given, sort_keys=False, allow_unicode=True, default_flow_style=None, width=119)


class _Loader(yaml.SafeLoader):
    """Refuses a repeated key in a mapping, whose last value YAML would use."""

    def construct_mapping(self, node, deep=False):
        keys = [key.value for key, _ in node.value if isinstance(key, yaml.ScalarNode)]
        repeated = [key for key in keys if keys.count(key) > 1]
        if repeated:
            raise ValueError(f"keys must stand once in a mapping, but got {repeated[0]!r} {len(repeated)} times")
        return super().construct_mapping(node, deep)


def _load(path: Path) -> Mapping:
    try:
        values = yaml.load(path.read_text(encoding="utf-8-sig"), _Loader)
    except yaml.MarkedYAMLError as error:
        place = f" on line {error.problem_mark.line + 1}" if error.problem_mark else ""
        raise ValueError(f"the file must be YAML, but got: {error.problem}{place}") from error
    except (yaml.YAMLError, UnicodeDecodeError, RecursionError) as error:
        raise ValueError(f"the file must be YAML text, but got: {str(error).splitlines()[0]}") from error
    if not isinstance(values, dict):
        raise ValueError(f"the file must hold keys such as landmarks, but got {reprlib.repr(values)}")
    return values


def _benchmark(values: Mapping, path: Path) -> Benchmark:
    for key in values:
        if key not in _KEYS:
            raise ValueError(f"keys must be among {', '.join(_KEYS)}, but got {key!r}{near(key, _KEYS)}")
    missing = [key for key in _REQUIRED if values.get(key) is None]
    if missing:
        hint = ", [] for no pairs" if "flip_pairs" in missing else ""
        raise ValueError(f"{' and '.join(missing)} must be given{hint}, but got {', '.join(values) or 'nothing'}")
    names = _landmark_names(values["landmarks"])
    name = _name(values, _default_name(path))
    facts = {
        "landmark_names": names,
        "flip_pairs": _flip_pairs(values["flip_pairs"], names),
        "normalizer_kinds": _normalizers(values["normalizer"], names),
        "parts": _numbered_parts(names) if values.get("parts") is None else _parts(values["parts"], names),
        "crop_box": _crop(values.get("crop")),
        "failure_threshold": _threshold(values.get("failure_threshold")),
        "occlusion": _truth("occluded", values.get("occluded")),
        "columns": _columns(values),
        "subsets": {name: Subset("test", None, GROUP, name) for name in _groups(values.get("groups"))},
        **{key: _text(key, values.get(key)) for key in ("licence", "citation")},
    }
    return Benchmark(
        name=name,
        title=" ".join(_text("title", values.get("title")).split()) or name,
        homepage=_homepage(values),
        splits={},
        test_split="test",
        layout=f"{METADATA}, or folders train/, validation/ and test/ with one each",
        download=f"photos with a {METADATA}",
        sources=dict.fromkeys(facts, path.name),
        **facts,
    )


def _default_name(path: Path) -> str:
    folder = re.sub(r"[^A-Za-z0-9_-]+", "_", path.resolve().parent.name)
    return folder if path.stem == "landmarks" and folder and folder not in BENCHMARKS else path.stem


def _name(values: Mapping, stem: str) -> str:
    name = stem if values.get("name") is None else values["name"]
    if not isinstance(name, str) or not re.fullmatch(r"[A-Za-z0-9_-]+", name):
        raise ValueError(f"name (by default the file's) must be letters, digits, - and _, but got {name!r}")
    if name in BENCHMARKS:
        raise ValueError(f"name (by default the file's) must not be that of a benchmark, but got {name!r}")
    return name


def _landmark_names(value: object) -> tuple[str, ...]:
    if not isinstance(value, list) or not value:
        raise ValueError(f"landmarks must be a list of at least one name, but got {reprlib.repr(value)}")
    for name in value:
        if not isinstance(name, str) or not name.strip() or not name.isprintable():
            raise ValueError(f"landmarks must be names, in quotes where YAML takes them otherwise, but got {name!r}")
    repeated = [name for name in value if value.count(name) > 1]
    if repeated:
        raise ValueError(f"landmarks must have different names, but got {repeated[0]!r} {len(repeated)} times")
    return tuple(value)


def _index(landmark: object, names: Sequence[str], key: str) -> int:
    if isinstance(landmark, str) and landmark in names:
        return names.index(landmark)
    if isinstance(landmark, int) and not isinstance(landmark, bool) and 0 <= landmark < len(names):
        return landmark
    raise ValueError(
        f"{key} must be made of names in landmarks or indices from 0 to {len(names) - 1}, "
        f"but got {reprlib.repr(landmark)}{near(landmark, names)}"
    )


def _indices(value: object, names: Sequence[str], key: str) -> tuple[int, ...]:
    """Different landmarks, at least one."""
    if not isinstance(value, list) or not value:
        raise ValueError(f"{key} must be a list of landmarks, but got {reprlib.repr(value)}")
    indices = tuple(_index(landmark, names, key) for landmark in value)
    repeated = [names[index] for index in indices if indices.count(index) > 1]
    if repeated:
        raise ValueError(f"{key} must be made of different landmarks, but got {repeated[0]!r} twice in {value}")
    return indices


def _flip_pairs(value: object, names: Sequence[str]) -> tuple[tuple[int, int], ...]:
    if not isinstance(value, list):
        raise ValueError(f"flip_pairs must be a list of pairs of landmarks, but got {reprlib.repr(value)}")
    pairs = []
    for pair in value:
        if not isinstance(pair, list) or len(pair) != 2:
            raise ValueError(f"flip_pairs must be pairs of landmarks, but got {reprlib.repr(pair)}")
        pairs.append(_indices(pair, names, "flip_pairs"))
    paired = [index for pair in pairs for index in pair]
    repeated = [names[index] for index in paired if paired.count(index) > 1]
    if repeated:
        raise ValueError(f"flip_pairs must hold a landmark once at most, but got {repeated[0]!r} in two pairs")
    return tuple(pairs)


def _normalizers(value: object, names: Sequence[str]) -> dict[str, Callable]:
    """By name, the default first, and always "box" and "diagonal"."""
    if isinstance(value, str) and value in BOX_NORMALIZERS:
        kinds = {value: BOX_NORMALIZERS[value]}
    elif isinstance(value, dict) and value:
        kinds = {name: _named_normalizer(name, kind, names) for name, kind in value.items()}
    else:
        distance = _distance("normalizer", value, names)
        simple = len(distance.first) == len(distance.second) == 1
        name = f"{names[distance.first[0]]}-{names[distance.second[0]]}" if simple else "between-means"
        kinds = {re.sub(r"[^\w-]+", "_", name): distance}
    return kinds | {name: kind for name, kind in BOX_NORMALIZERS.items() if name not in kinds}


def _named_normalizer(name: object, value: object, names: Sequence[str]) -> Callable:
    if not isinstance(name, str) or not re.fullmatch(r"[\w-]+", name):
        raise ValueError(f"normalizer must have names of letters, digits, - and _, but got {name!r}")
    if name in BOX_NORMALIZERS or (isinstance(value, str) and value in BOX_NORMALIZERS):
        if name != value:
            raise ValueError(f"normalizer must be written `box: box` or `diagonal: diagonal`, but got {name}: {value}")
        return BOX_NORMALIZERS[name]
    return _distance(f"normalizer {name}", value, names)


def _distance(key: str, value: object, names: Sequence[str]) -> Distance:
    if not isinstance(value, list) or len(value) != 2:
        raise ValueError(
            f"{key} must be two landmarks or two lists of them, box, diagonal or a mapping of names to these, "
            f"but got {reprlib.repr(value)}"
        )
    first, second = (_indices(end if isinstance(end, list) else [end], names, key) for end in value)
    if set(first) == set(second):
        raise ValueError(f"{key} must be a distance between different landmarks, but got {value}")
    return Distance(first, second)


def _numbered_parts(names: Sequence[str]) -> dict[str, Part]:
    """mouth_0, mouth_1, … are joined, as on the pictures of `make detect`."""
    parts: dict[str, Part] = {}
    for run, closed in contours(list(names)):
        name = names[run[0]].rstrip("0123456789").rstrip("_")
        parts[names[run[0]] if name in parts else name] = Part(tuple(run), closed)
    return parts


def _parts(value: object, names: Sequence[str]) -> dict[str, Part]:
    if value is not None and not isinstance(value, dict):
        raise ValueError(f"parts must be a mapping of names to lists of landmarks, but got {reprlib.repr(value)}")
    for name in value or {}:
        if not isinstance(name, str) or not name.isprintable():
            raise ValueError(f"parts must have names, but got {name!r}")
    return {name: _part(f"parts {name}", part, names) for name, part in (value or {}).items()}


def _part(key: str, value: object, names: Sequence[str]) -> Part:
    if not isinstance(value, dict):
        return Part(_indices(value, names, key))
    for inner in value:
        if inner not in ("landmarks", "closed"):
            raise ValueError(f"{key} must have the keys landmarks and closed, but got {inner!r}")
    return Part(_indices(value.get("landmarks"), names, key), _truth(f"{key} closed", value.get("closed")))


def _crop(value: object) -> str:
    if value is None:
        return _CROPS[0]
    if value not in _CROPS:
        raise ValueError(f"crop must be {' or '.join(_CROPS)}, but got {reprlib.repr(value)}{near(value, _CROPS)}")
    return value


def _threshold(value: object) -> float:
    if value is None:
        return 0.1
    if not isinstance(value, (int, float)) or isinstance(value, bool) or not 0 < value < 1:
        raise ValueError(f"failure_threshold must be a fraction between 0 and 1, such as 0.1, but got {value!r}")
    return float(value)


def _truth(key: str, value: object) -> bool:
    if value is not None and not isinstance(value, bool):
        raise ValueError(f"{key} must be true or false, but got {reprlib.repr(value)}")
    return bool(value)


def _columns(values: Mapping) -> dict[str, Column]:
    columns = {"visibility": VISIBILITY} if _truth("visibility", values.get("visibility")) else {}
    return columns | ({GROUP: Column("string", "group that the face is scored with")} if values.get("groups") else {})


def _groups(value: object) -> list[str]:
    names = [] if value is None else value
    if not isinstance(names, list) or not all(isinstance(n, str) and re.fullmatch(r"[\w.-]+", n) for n in names):
        raise ValueError(f"groups must be names of letters, digits, ., - and _, but got {reprlib.repr(value)}")
    for name in names:
        if names.count(name) > 1 or name in ("train", "validation", "test"):
            raise ValueError(f"groups must have different names that no split has, but got {name!r}")
    return names


def _text(key: str, value: object) -> str:
    if value is not None and not isinstance(value, str):
        raise ValueError(f"{key} must be text, but got {reprlib.repr(value)}")
    return (value or "").strip()


def _homepage(values: Mapping) -> str:
    homepage = _text("homepage", values.get("homepage"))
    if homepage and not re.fullmatch(r"https?://\S+", homepage):
        raise ValueError(f"homepage must be an address that starts with https:// or http://, but got {homepage!r}")
    return homepage
