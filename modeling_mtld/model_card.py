"""training.json, the record of how a checkpoint was trained, and README.md, the model card written from it.

The record is kept beside the weights, so that a training that starts from them can go on with it.
"""

import dataclasses
import json
import shlex
import subprocess
from collections.abc import Mapping, Sequence
from importlib.metadata import version
from pathlib import Path

from huggingface_hub import EvalResult, ModelCard, ModelCardData
from transformers.utils import cached_file

RECORD = "training.json"
LIBRARIES = ("torch", "transformers", "timm", "accelerate")


@dataclasses.dataclass(frozen=True)
class Stage:
    """One training: what it was told, what it was given and what came out.

    Attributes:
        command: as typed, see `shown_command`.
        dataset, title, homepage, licence: the benchmark, as `dataset_scripts.Benchmark` has them.
        split: trained on.
        faces: number of them that the training saw.
        official_faces: number of them in the complete split, where that is known.
        epochs, seed: as given.
        setting: processes, device and precision, in words.
        commit: of the code, see `git_commit`.
        versions: of the libraries by name, see `library_versions`.
        normalizer: name of what the errors in `results` are divided by.
        threshold: of failure rate and AUC, a fraction.
        results: for each split "nme", "failure_rate" and "auc", fractions, after the last epoch, and "faces".
    """

    command: str
    dataset: str
    title: str
    homepage: str
    licence: str
    split: str
    faces: int
    epochs: int
    seed: int
    setting: str
    versions: Mapping[str, str]
    normalizer: str
    threshold: float
    official_faces: int | None = None
    commit: str | None = None
    results: Mapping[str, Mapping[str, float]] = dataclasses.field(default_factory=dict)


def shown_command(arguments: Sequence[str]) -> str:
    """The command as typed, quoted for a shell. Of absolute paths the last part alone: the rest is of one machine."""
    return shlex.join(map(_without_place, arguments))


def _without_place(argument: str) -> str:
    option, equals, value = argument.partition("=") if argument.startswith("--") else ("", "", argument)
    return option + equals + ((Path(value).name or value) if value.startswith(("/", "~")) else value)


def library_versions() -> dict[str, str]:
    return {name: version(name) for name in LIBRARIES}


def git_commit(folder: Path) -> str | None:
    """The commit checked out in `folder`, and whether files differ from it; None where there is no git."""

    def git(*arguments):
        return subprocess.run(["git", "-C", folder, *arguments], capture_output=True, text=True, check=True).stdout

    try:
        changed = git("status", "--porcelain", "--untracked-files=no").strip()
        return git("rev-parse", "HEAD").strip() + (" with uncommitted changes" if changed else "")
    except (OSError, subprocess.CalledProcessError):
        return None


def read_stages(model_name_or_path: str | None) -> list[Stage]:
    """The trainings behind a checkpoint, a directory or Hub id; none if it does not tell.

    Raises:
        ValueError: naming the file, if it is no such record.
    """
    file = model_name_or_path and cached_file(model_name_or_path, RECORD, _raise_exceptions_for_missing_entries=False)
    if not file:
        return []
    try:
        return [Stage(**stage) for stage in json.loads(Path(file).read_text(encoding="utf-8"))]
    except (TypeError, ValueError) as error:
        raise ValueError(f"{file} must be a list of trainings, but got: {error}") from error


def write_model_card(directory: str | Path, config, stages: Sequence[Stage]):
    """Writes training.json and README.md into `directory`.

    Args:
        config: the model's `MTLDConfig`.
        stages: the trainings behind the model; the results of the last are the card's.
    """
    record = json.dumps([dataclasses.asdict(stage) for stage in stages], indent=2)
    (Path(directory) / RECORD).write_text(record + "\n", encoding="utf-8")
    card = _CARD.format(
        metadata=_metadata(config, stages).to_yaml(),
        num_landmarks=config.num_landmarks,
        backbone=config.backbone,
        size=config.image_size,
        results=_results(stages[-1]),
        stages="\n\n".join(_describe(stage, number, len(stages)) for number, stage in enumerate(stages, 1)),
        licences="\n".join(f"- {text}" for text in dict.fromkeys(_licence(stage) for stage in stages)),
    )
    ModelCard(card).save(Path(directory) / "README.md")


_CARD = """---
{metadata}
---

# MTLD: {num_landmarks} facial landmarks with {backbone}

Finds {num_landmarks} landmarks of each face in a photo. The network is that of "Accurate Facial Landmark Detector via
Multi-scale Transformer" (Sha et al., PRCV 2023) with a {backbone} backbone, for face crops of {size} x {size} pixels.

```python
from transformers import AutoImageProcessor, AutoModel, pipeline

path = "path/or/repository/of/this/folder"
find = pipeline("facial-landmark-detection", model=path, trust_remote_code=True)
faces = find("photo.jpg")  # [{{"score", "box", "landmarks": [{{"label", "x", "y", "score"}}, ...]}}, ...]

model = AutoModel.from_pretrained(path, trust_remote_code=True)
processor = AutoImageProcessor.from_pretrained(path, trust_remote_code=True)
inputs = processor("photo.jpg", boxes=[[120, 80, 300, 280]], return_tensors="pt")  # x0, y0, x1, y1 of a face
faces = processor.post_process_landmark_detection(model(**inputs), inputs)[0]  # [{{"keypoints", "scores", ...}}]
```

Pixels are counted from 0 at the centre of the top-left one. A box is the tight one around the landmarks; faces that
the pipeline finds itself are cropped a second time around the landmarks first found.

## Results

{results}

## Training

{stages}

## Licence

The code files are under Apache-2.0. The weights may be used as the data that they were trained on allows:

{licences}
"""


def _metadata(config, stages: Sequence[Stage]) -> ModelCardData:
    last = stages[-1]
    metrics = {
        "nme": f"NME in % ({last.normalizer})",
        "failure_rate": f"FR@{last.threshold:.0%} in %",
        "auc": f"AUC@{last.threshold:.0%} in %",
    }
    return ModelCardData(
        license="other",
        license_name="non-commercial-research",
        license_link=last.homepage,
        library_name="transformers",
        pipeline_tag="keypoint-detection",
        tags=["facial-landmark-detection", "face-alignment", *dict.fromkeys(stage.dataset for stage in stages)],
        model_name=f"MTLD {config.backbone}",
        eval_results=[
            EvalResult(
                task_type="keypoint-detection",
                dataset_type=last.dataset,
                dataset_name=last.title,
                dataset_split=split,
                metric_type=metric,
                metric_name=name,
                metric_value=round(100 * scores[metric], 3),
            )
            for split, scores in last.results.items()
            for metric, name in metrics.items()
        ],
    )


def _results(stage: Stage) -> str:
    limit = f"{stage.threshold:.0%}"
    rows = [
        f"| {stage.title} {split} | {scores['faces']} | {100 * scores['nme']:.3f} | "
        f"{100 * scores['failure_rate']:.2f} | {100 * scores['auc']:.2f} |"
        for split, scores in stage.results.items()
    ]
    return "\n".join(
        [
            f"Percent, of the last epoch and of the weights as they are stored here. NME is the mean error over the "
            f"{stage.normalizer} distance, FR the share of faces with an error above {limit}, AUC the area under the "
            f"cumulative error curve up to there.",
            "",
            f"| split | faces | NME ({stage.normalizer}) | FR@{limit} | AUC@{limit} |",
            "|---|---|---|---|---|",
            *rows,
        ]
    )


def _describe(stage: Stage, number: int, count: int) -> str:
    official = "" if stage.official_faces is None else f" (the complete split has {stage.official_faces})"
    title = f"### Stage {number} of {count}\n\n" if count > 1 else ""
    return (
        f"{title}```bash\n{stage.command}\n```\n\n"
        f"- data: {stage.title}, split {stage.split}, {stage.faces} faces{official}\n"
        f"- epochs: {stage.epochs}, of which the last is taken\n"
        f"- seed: {stage.seed}\n"
        f"- on: {stage.setting}\n"
        f"- code: commit {stage.commit or 'unknown'}\n"
        f"- with: " + ", ".join(f"{name} {number}" for name, number in stage.versions.items())
    )


def _licence(stage: Stage) -> str:
    return f"{stage.title} (<{stage.homepage}>): {stage.licence}"
