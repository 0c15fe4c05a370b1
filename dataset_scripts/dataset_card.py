"""The README.md of a converted data set."""

from collections.abc import Mapping

import datasets
from datasets.info import DatasetInfosDict
from huggingface_hub import DatasetCardData

from .benchmark_facts import Benchmark
from .benchmarks import BENCHMARKS

OWN_YAML = "landmarks.yaml"  # describes your own landmarks, beside the card

_CARD = """---
{metadata}
---

# {title}: faces with {num_landmarks} landmarks

{licence}

```python
from datasets import load_dataset

faces = load_dataset("path/or/repository/of/this/folder", split="{first_split}")
faces[0]["image"], faces[0]["landmarks"]
```

Coordinates (x, y) are in pixels of the photo; (0, 0) is the centre of the top-left pixel.

| column | meaning |
|---|---|
{columns}

The landmarks, in this order: {names}.

{splits}

{notes}
"""


def dataset_card(benchmark: Benchmark, info: datasets.DatasetInfo) -> str:
    """The card's text: front matter, licence, columns, splits with their number of faces, citation where known.

    Args:
        info: features, splits and sizes, for the front matter, from which `datasets` and the Hub read them.
    """
    sizes = {name: split.num_examples for name, split in info.splits.items()}
    return _CARD.format(
        metadata=_metadata(benchmark, info).to_yaml(),
        title=benchmark.title,
        num_landmarks=benchmark.num_landmarks,
        licence=_licence(benchmark),
        first_split=next(iter(sizes)),
        columns="\n".join(f"| `{name}` | {meaning} |" for name, meaning in _columns(benchmark).items()),
        names=", ".join(f"`{name}`" for name in benchmark.landmark_names),
        splits=_splits(benchmark, sizes),
        notes="\n\n".join(_notes(benchmark, sizes)),
    )


def _licence(benchmark: Benchmark) -> str:
    head = "Non-commercial research only" if _non_commercial(benchmark) else "Mind the licence"
    terms = benchmark.licence or "None is stated."
    source = f"\n> Official source: <{benchmark.homepage}>" if benchmark.homepage else ""
    return f"> **{head}.** {terms} Keep this data set private unless you may share the photos.{source}"


def _non_commercial(benchmark: Benchmark) -> bool:
    return "non-commercial" in benchmark.licence.lower()


def _columns(benchmark: Benchmark) -> dict[str, str]:
    count = benchmark.num_landmarks
    occluded = {"occluded": f"{count} x true or false: the landmark is occluded"} if benchmark.occlusion else {}
    return {
        "image": "photo, decoded to RGB",
        "landmarks": f"{count} x (x, y), float32; NaN: not annotated",
        "landmark_box": "x0, y0, x1, y1 around the landmarks, rounded outwards to whole pixels",
        "box": "x0, y0, x1, y1 of the annotated face box; NaN: there is none",
        "image_id": "name of the photo, as a rule its path in the original folders without suffix",
        **occluded,
        **{name: column.meaning for name, column in benchmark.columns.items()},
    }


def _splits(benchmark: Benchmark, sizes: Mapping[str, int]) -> str:
    if not benchmark.splits:
        return "\n".join(["| split | faces |", "|---|---|", *(f"| {split} | {n} |" for split, n in sizes.items())])
    rows = [f"| {split} | {size} | {benchmark.splits.get(split, 'unknown')} |" for split, size in sizes.items()]
    return "\n".join(["| split | faces | official |", "|---|---|---|", *rows])


def _notes(benchmark: Benchmark, sizes: Mapping[str, int]) -> list[str]:
    is_complete = all(size == benchmark.splits.get(split, size) for split, size in sizes.items())
    warning = "" if is_complete else "**Not the complete benchmark**: state this beside every score. "
    yaml_note = (
        f"`{OWN_YAML}` describes the landmarks. The project that made this folder reads it with "
        f"`--dataset {OWN_YAML}`. From the Hub, "
        f"`hf download ORG/NAME {OWN_YAML} --repo-type dataset --local-dir .` fetches it, and "
        "`--data_dir ORG/NAME` reads the faces."
    )
    return [
        f"{warning}Errors are divided by the normaliser {benchmark.default_normalizer}. "
        "Converted from the original files without changes to the pixels of the photos.",
        *([yaml_note] if benchmark.name not in BENCHMARKS else []),
        *([f"## Citation\n\n```bibtex\n{benchmark.citation}\n```"] if benchmark.citation else []),
    ]


def _metadata(benchmark: Benchmark, info: datasets.DatasetInfo) -> DatasetCardData:
    terms = "non-commercial-research" if _non_commercial(benchmark) else "as-stated-on-this-card"
    licence = {"license": "other", "license_name": terms, "license_link": benchmark.homepage or None}
    data = DatasetCardData(
        pretty_name=benchmark.title,
        **(licence if benchmark.licence else {}),
        task_categories=["keypoint-detection"],
        tags=["facial-landmark-detection", "face-alignment", benchmark.name],
        configs=[
            {
                "config_name": "default",
                "data_files": [{"split": split, "path": f"data/{split}-*.parquet"} for split in info.splits],
            }
        ],
    )
    DatasetInfosDict({"default": info}).to_dataset_card_data(data)
    return data
