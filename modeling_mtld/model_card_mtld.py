"""training.json, the record of how a checkpoint was trained, and README.md, the model card.

The record is kept beside the weights, so that a training that starts from them can go on with it. The card is written
from it, unless somebody has written one.
"""

import dataclasses
import itertools
import json
import logging
import os
from collections.abc import Mapping, Sequence
from pathlib import Path

import torch
from huggingface_hub import EvalResult, ModelCardData
from safetensors import safe_open
from transformers.utils import cached_file

from .auto_mtld import code_revision, write_whole

logger = logging.getLogger(__name__)

RECORD = "training.json"
CARD = "README.md"
WEIGHTS = "model.safetensors"
GENERATED_MARK = (
    "<!-- Written anew by every save_pretrained of MTLD. Remove this line to keep what you change below it. -->"
)
CHECKPOINT_PLACEHOLDER = (
    "path/or/repository/of/this/folder"  # where the card's example loads from; on the Hub the repository's id
)


@dataclasses.dataclass(frozen=True)
class TrainingSet:
    """A data set that a model was trained on, and what it scores there.

    Attributes:
        dataset, title, homepage, licence: the benchmark, as `dataset_scripts.Benchmark` has them; homepage and licence
            are "" where there is none.
        split: trained on.
        faces: number of them that the training saw; None for a stream, which does not tell.
        normalizer: name of what the errors in `results` are divided by.
        threshold: of failure rate and AUC, a fraction.
        official_faces: number of them in the complete split, where that is known.
        fingerprint: of the faces, see `training_mtld/facts.py`; None for a stream.
        results: for each split "nme", "failure_rate" and "auc", fractions, after the last epoch, and "faces"; where it
            was measured, "nme_low" and "nme_high", the 95 % interval of the NME; with a scale head "confidence_ratio"
            and "likelihood_gain" too, see `training_mtld/evaluation/confidence_metrics.py`; with a visibility head
            "visibility_auc", where the set knows which landmarks the head hides.
    """

    dataset: str
    title: str
    homepage: str
    licence: str
    split: str
    faces: int | None
    normalizer: str
    threshold: float
    official_faces: int | None = None
    fingerprint: str | None = None
    results: Mapping[str, Mapping[str, float]] = dataclasses.field(default_factory=dict)


@dataclasses.dataclass(frozen=True)
class Stage:
    """One training: what it was told, what it was given and what came out.

    Attributes:
        command: as typed.
        datasets: trained on together.
        epochs, seed: as given.
        setting: processes, device and precision, in words.
        versions: of the libraries by name.
        commit: of the code.
    """

    command: str
    datasets: Sequence[TrainingSet]
    epochs: int
    seed: int
    setting: str
    versions: Mapping[str, str]
    commit: str | None = None

    def with_results(self, results: Mapping[str, Mapping]) -> "Stage":
        """This stage with the `results` of each `dataset` by its name."""
        datasets = [dataclasses.replace(one, results=results.get(one.dataset, {})) for one in self.datasets]
        return dataclasses.replace(self, datasets=datasets)

    @property
    def scored(self) -> list[TrainingSet]:
        """The data sets with results."""
        return [dataset for dataset in self.datasets if dataset.results]


def read_stages(model_name_or_path: str | None) -> list[Stage]:
    """The trainings behind a checkpoint, a directory or Hub id; none if it does not tell.

    Raises:
        ValueError: naming the file, if it is no such record.
    """
    file = model_name_or_path and cached_file(model_name_or_path, RECORD, _raise_exceptions_for_missing_entries=False)
    return _parse(file) if file else []


def _parse(file: str) -> list[Stage]:
    try:
        return [_stage(**fields) for fields in json.loads(Path(file).read_text(encoding="utf-8"))]
    except (TypeError, ValueError) as error:
        raise ValueError(f"{file} must be a list of trainings, but got: {error}") from error


def _stage(datasets: list[dict] | None = None, **fields) -> Stage:
    if datasets is None:  # a record of before there could be several sets
        names = [field.name for field in dataclasses.fields(TrainingSet) if field.name in fields]
        datasets = [{name: fields.pop(name) for name in names}]
    return Stage(datasets=[TrainingSet(**dataset) for dataset in datasets], **fields)


def is_generated(card: str) -> bool:
    """Whether a card is one of `write_model_card` that nobody has claimed."""
    return GENERATED_MARK in card


def write_model_card(directory: str | os.PathLike, config, stages: Sequence[Stage] = (), card: str | None = None):
    """Writes training.json and README.md into `directory`. A README.md there that somebody has written stays.

    Args:
        config: the model's `MTLDConfig`.
        stages: the trainings behind the model; the results of the last are the card's. Without any, a record there
            is of other weights and is removed, and the card claims no results.
        card: README.md, where it is not to be written from `stages`.
    """
    record, readme = Path(directory, RECORD), Path(directory, CARD)
    if stages:
        text = json.dumps([dataclasses.asdict(stage) for stage in stages], indent=2)
        write_whole(record, f"{text}\n".encode())
    else:
        record.unlink(missing_ok=True)
    if not readme.is_file() or is_generated(readme.read_text(encoding="utf-8", errors="replace")):
        write_whole(readme, (card or model_card(config, stages)).encode())


def inherited(config, weights: Mapping[str, torch.Tensor]) -> tuple[list[Stage], str | None]:
    """What the checkpoint that a model was loaded from tells of these weights: its stages, and its card if somebody
    has written it; nothing if the weights have changed since, as its results are not theirs.

    Args:
        config: the model's `MTLDConfig`, which knows where it was loaded from.
        weights: as they are about to be saved.
    """
    source = config._name_or_path
    # Weights loaded from the Hub lie in the cache; what does not was a directory that is gone.
    file = source and _file_of(source, WEIGHTS, revision=code_revision(), local_files_only=True)
    if not file or not _are_those_of(file, weights):
        return [], None
    revision = None if os.path.isdir(source) else Path(file).parent.name
    record, readme = (_file_of(source, name, revision=revision) for name in (RECORD, CARD))
    try:
        stages = _parse(record) if record else []
    except ValueError as error:  # the weights of a long training are saved all the same
        logger.warning("%s", error)
        stages = []
    card = Path(readme).read_text(encoding="utf-8", errors="replace") if readme else GENERATED_MARK
    return stages, None if is_generated(card) else card


def _file_of(source: str, name: str, **options) -> str | None:
    try:
        return cached_file(source, name, _raise_exceptions_for_missing_entries=False, **options)
    except OSError:  # also without a network
        return None


def _are_those_of(file: str, weights: Mapping[str, torch.Tensor]) -> bool:
    """Whether `file` holds `weights`, perhaps in another precision."""
    with safe_open(file, framework="pt") as stored:
        return set(stored.keys()) >= weights.keys() and all(
            torch.equal(stored.get_tensor(name).to(value.dtype), value.cpu()) for name, value in weights.items()
        )


def model_card(config, stages: Sequence[Stage] = ()) -> str:
    """The text of README.md, with the results of the last stage in the Hub's `model-index` form."""
    return _CARD.format(
        metadata=_metadata(config, stages).to_yaml(),
        mark=GENERATED_MARK,
        place=CHECKPOINT_PLACEHOLDER,
        num_landmarks=_counts(config),
        backbone=config.backbone,
        size=config.image_size,
        names=_names(config),
        notes=_notes(config),
        results=_results(stages[-1].scored if stages else []),
        training="\n\n".join(_describe(stage, number, len(stages)) for number, stage in enumerate(stages, 1))
        or "Not recorded.",
        licences="\n".join(["", *dict.fromkeys(map(_licence, _datasets(stages)))]) if stages else "",
    )


_CARD = """---
{metadata}
---

{mark}

# MTLD: {num_landmarks} facial landmarks with {backbone}

Finds {num_landmarks} landmarks of each face in a photo. The network is that of "Accurate Facial Landmark Detector via
Multi-scale Transformer" (Sha et al., PRCV 2023) with a {backbone} backbone, for face crops of {size} x {size} pixels.

```python
from transformers import AutoImageProcessor, AutoModel, pipeline

path = "{place}"
find = pipeline("facial-landmark-detection", model=path, trust_remote_code=True)
faces = find("photo.jpg")  # [{{"score", "box", "landmarks": [{{"label", "x", "y", "score"}}, ...]}}, ...]

model = AutoModel.from_pretrained(path, trust_remote_code=True)
processor = AutoImageProcessor.from_pretrained(path, trust_remote_code=True)
inputs = processor("photo.jpg", boxes=[[120, 80, 300, 280]], return_tensors="pt")  # x0, y0, x1, y1 of a face
faces = processor.post_process_landmark_detection(model(**inputs), inputs)[0]  # [{{"keypoints", "scores", ...}}]
```

Pixels are counted from 0 at the centre of the top-left one. A box is the tight one around the landmarks; faces that
the pipeline finds itself are cropped a second time around the landmarks first found.
{names}{notes}
## Results

{results}

## Training

{training}

## Licence

The code files are under Apache-2.0. The weights may be used as the data that they were trained on allows.
{licences}
"""


def _datasets(stages: Sequence[Stage]) -> list[TrainingSet]:
    return [dataset for stage in stages for dataset in stage.datasets]


def _metadata(config, stages: Sequence[Stage]) -> ModelCardData:
    datasets = _datasets(stages)
    names = dict.fromkeys(dataset.dataset for dataset in datasets)
    data = ModelCardData(
        library_name="transformers",
        pipeline_tag="keypoint-detection",
        tags=["facial-landmark-detection", "face-alignment", *names],
    )
    if any(dataset.licence for dataset in datasets):  # your own data may come without one
        non_commercial = any("non-commercial" in dataset.licence.lower() for dataset in datasets)
        data.license = "other"
        data.license_name = "non-commercial-research" if non_commercial else "as-stated-on-this-card"
        data.license_link = next((dataset.homepage for dataset in reversed(datasets) if dataset.homepage), None)
    if stages and stages[-1].scored:
        data.model_name = f"MTLD {config.backbone}"
        data.eval_results = [result for dataset in stages[-1].scored for result in _eval_results(dataset)]
    return data


def _eval_results(dataset: TrainingSet) -> list[EvalResult]:
    metrics = {
        "nme": f"NME in % ({dataset.normalizer})",
        "failure_rate": f"FR@{100 * dataset.threshold:g}% in %",
        "auc": f"AUC@{100 * dataset.threshold:g}% in %",
    }
    return [
        EvalResult(
            task_type="keypoint-detection",
            task_name="Facial landmark detection",
            dataset_type=dataset.dataset,
            dataset_name=dataset.title,
            dataset_split=split,
            metric_type=metric,
            metric_name=name,
            metric_value=round(100 * scores[metric], 3),
        )
        for split, scores in dataset.results.items()
        for metric, name in metrics.items()
    ]


def _counts(config) -> str:
    """Of the landmarks of each topology: "68" or "68 or 21"."""
    topologies = (config.topologies or {}).values()
    return " or ".join(str(len(one["landmarks"])) for one in topologies) or str(config.num_landmarks)


def _notes(config) -> str:
    """What the example does not show."""
    notes = ""
    if config.use_visibility_head:
        notes += '\n`"visibility"` of a landmark is the probability that the head itself does not hide it.\n'
    if config.datasets:
        names = ", ".join(f"`{name}`" for name in config.datasets)
        notes += (
            f"\n`dataset=` of pipeline and model, one of {names}, adds what the annotations of a set have in common, "
            "such as lying to one side. The results below are with it; by default it is left out.\n"
        )
    return notes


def _names(config) -> str:
    """The groups of landmarks in their order, as names tell them: "jaw (17), right_brow (5), ..."; for each topology
    where there are several."""
    if config.topologies:
        listed = (f"- `{name}`: {_groups(values['landmark_names'])}" for name, values in config.topologies.items())
        text = "\n".join(listed)
        return (
            "\nThe network predicts several sets of landmarks; `topology=` of pipeline, model and "
            f"`post_process_landmark_detection` chooses one by its name. By default the pipeline gives "
            f"`{config.default_topology}`.\n\n{text}\n"
        )
    return f"\nThe landmarks, in this order: {_groups(config.landmark_names)}.\n" if config.landmark_names else ""


def _groups(names: Sequence[str]) -> str:
    groups = itertools.groupby(name.rstrip("0123456789").rstrip("_") for name in names)
    return ", ".join(f"{name} ({len(list(group))})" for name, group in groups)


def _results(datasets: Sequence[TrainingSet]) -> str:
    if not datasets:
        return "None are known for these weights."
    return "\n\n".join(map(_results_on, datasets))


def _results_on(dataset: TrainingSet) -> str:
    limit = f"{100 * dataset.threshold:g}%"
    rows = [
        f"| {dataset.title} {split} | {scores['faces']} | {100 * scores['nme']:.3f}{_interval(scores)} | "
        f"{100 * scores['failure_rate']:.2f} | {100 * scores['auc']:.2f} |"
        for split, scores in dataset.results.items()
    ]
    measured = any("nme_low" in scores for scores in dataset.results.values())
    brackets = " In brackets: the 95 % interval of the NME, by bootstrap over the faces." if measured else ""
    return "\n".join(
        [
            f"Percent, of the last epoch and of the weights as they are stored here. NME is the mean error over the "
            f"{dataset.normalizer} distance, FR the share of faces with an error above {limit}, AUC the area under "
            f"the cumulative error curve up to there.{brackets}",
            "",
            f"| split | faces | NME ({dataset.normalizer}) | FR@{limit} | AUC@{limit} |",
            "|---|---|---|---|---|",
            *rows,
            *(_confidence(split, scores) for split, scores in dataset.results.items() if "confidence_ratio" in scores),
            *(_visibility(split, scores) for split, scores in dataset.results.items() if "visibility_auc" in scores),
        ]
    )


def _interval(scores: Mapping[str, float]) -> str:
    if "nme_low" not in scores:
        return ""
    return f" [{100 * scores['nme_low']:.2f}, {100 * scores['nme_high']:.2f}]"


def _confidence(split: str, scores: Mapping[str, float]) -> str:
    return (
        f"\nConfidence on {split}: relative to each landmark's mean error, the least confident tenth of the landmarks "
        f"has {scores['confidence_ratio']:.2f} times the error of the most confident tenth; the predicted scales gain "
        f"{scores['likelihood_gain']:+.3f} nats a landmark over the best constant for each."
    )


def _visibility(split: str, scores: Mapping[str, float]) -> str:
    return (
        f"\nVisibility on {split}: {scores['visibility_auc']:.3f} is the area under the ROC curve of landmarks that "
        "the head itself hides against the others."
    )


def _describe(stage: Stage, number: int, count: int) -> str:
    title = f"### Stage {number} of {count}\n\n" if count > 1 else ""
    return (
        f"{title}```bash\n{stage.command}\n```\n\n"
        + "".join(map(_describe_data, stage.datasets))
        + f"- epochs: {stage.epochs}, of which the last is taken\n"
        f"- seed: {stage.seed}\n"
        f"- on: {stage.setting}\n"
        f"- code: commit {stage.commit or 'unknown'}\n"
        f"- with: " + ", ".join(f"{name} {number}" for name, number in stage.versions.items())
    )


def _describe_data(dataset: TrainingSet) -> str:
    official = "" if dataset.official_faces is None else f" (the complete split has {dataset.official_faces})"
    fingerprint = f", fingerprint {dataset.fingerprint}" if dataset.fingerprint else ""
    faces = f"{dataset.faces or 'streamed,'} faces{official}{fingerprint}"
    return f"- data: {dataset.title}, split {dataset.split}, {faces}\n"


def _licence(dataset: TrainingSet) -> str:
    place = f" (<{dataset.homepage}>)" if dataset.homepage else ""
    return f"{dataset.title}{place}: {dataset.licence or 'no licence is stated.'}"
