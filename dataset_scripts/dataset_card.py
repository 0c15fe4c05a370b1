"""The README.md of a converted benchmark."""

from collections.abc import Mapping

from huggingface_hub import DatasetCardData

from .benchmarks import Benchmark

_CARD = """---
{metadata}
---

# {title}: faces with {num_landmarks} landmarks

> **Non-commercial research only.** {licence} Keep this data set private unless you hold that consent.
> Official source: <{homepage}>

```python
from datasets import load_dataset

faces = load_dataset("path/or/repository/of/this/folder", split="{first_split}")
faces[0]["image"], faces[0]["landmarks"]
```

| column | meaning |
|---|---|
| `image` | photo, decoded to RGB |
| `landmarks` | {num_landmarks} x (x, y), float32; pixels, 0-based, whole at their centres; NaN: not annotated |
| `box` | x0, y0, x1, y1 around the landmarks in the same pixels, rounded outwards |
| `image_id` | path of the photo in the official folders, without suffix |

| split | faces | official |
|---|---|---|
{split_rows}

{incomplete}Errors are divided by the {normalizer} distance. Converted from the official download, photos as they were.

## Citation

```bibtex
{citation}
```
"""


def dataset_card(benchmark: Benchmark, sizes: Mapping[str, int]) -> str:
    """The card's text: front matter, licence, columns, splits with their number of faces, citation."""
    differing = any(size != benchmark.splits[split] for split, size in sizes.items())
    return _CARD.format(
        metadata=_metadata(benchmark, sizes).to_yaml(),
        title=benchmark.title,
        num_landmarks=benchmark.num_landmarks,
        licence=benchmark.licence,
        homepage=benchmark.homepage,
        first_split=next(iter(sizes)),
        split_rows="\n".join(f"| {split} | {size} | {benchmark.splits[split]} |" for split, size in sizes.items()),
        incomplete="**Not the complete benchmark**: say so wherever a score is quoted. " if differing else "",
        normalizer=benchmark.default_normalizer,
        citation=benchmark.citation,
    )


def _metadata(benchmark: Benchmark, sizes: Mapping[str, int]) -> DatasetCardData:
    return DatasetCardData(
        pretty_name=benchmark.title,
        license="other",
        license_name="non-commercial-research",
        license_link=benchmark.homepage,
        task_categories=["keypoint-detection"],
        tags=["facial-landmark-detection", "face-alignment", benchmark.name],
        configs=[
            {
                "config_name": "default",
                "data_files": [{"split": split, "path": f"data/{split}-*.parquet"} for split in sizes],
            }
        ],
    )
