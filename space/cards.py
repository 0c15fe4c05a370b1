"""Descriptions of a checkpoint: its network, and the results and the licence on its model card."""

import logging

from huggingface_hub import ModelCard
from picker import Checkpoint
from transformers.utils import cached_file

logger = logging.getLogger(__name__)


def describe(pipe, checkpoint: Checkpoint) -> str:
    """Describes a checkpoint and the pipeline `pipe` loaded from it, in Markdown."""
    config, card = pipe.model.config, _read_card(checkpoint)
    parameters = sum(parameter.numel() for parameter in pipe.model.parameters()) / 1e6
    network = (
        f"**{checkpoint.label}**: {len(_landmark_names(config))} landmarks, backbone {config.backbone}, face crops of"
        f" {config.image_size} x {config.image_size} pixels, {parameters:.1f} M parameters."
    )
    return "\n\n".join([network, _describe_results(_results(card)), _describe_licence(card)])


def summary(pipe, checkpoint: Checkpoint) -> dict:
    """The same for programs: name, num_landmarks, landmark_names, image_size and results, see `_results`."""
    config = pipe.model.config
    return {
        "name": checkpoint.label,
        "num_landmarks": len(_landmark_names(config)),
        "landmark_names": _landmark_names(config),
        "image_size": config.image_size,
        "results": _results(_read_card(checkpoint)),
    }


def _landmark_names(config) -> list[str]:
    """The names of the landmarks that the pipeline returns."""
    default = (config.topologies or {}).get(config.default_topology)
    names = default["landmark_names"] if default else config.landmark_names
    return list(names or map(str, range(config.num_landmarks)))


def _read_card(checkpoint: Checkpoint) -> ModelCard | None:
    try:
        file = cached_file(checkpoint.source, "README.md", revision=checkpoint.revision)
        return ModelCard.load(file)
    except Exception:  # the Hub's client, YAML and the card's validation raise errors of different classes
        logger.info("The checkpoint %s has no readable card", checkpoint.source, exc_info=True)
        return None


def _results(card: ModelCard | None) -> list[dict]:
    """The results on a card, each with its dataset, split, metric and value."""
    entries = card.data.eval_results if card is not None else None
    return [
        {
            "dataset": entry.dataset_name,
            "split": entry.dataset_split,
            "metric": entry.metric_name or entry.metric_type,
            "value": entry.metric_value,
        }
        for entry in entries or []
    ]


def _describe_results(results: list[dict]) -> str:
    """A table with a row for each split and a column for each metric."""
    if not results:
        return "Its model card lists no results."
    metrics = list(dict.fromkeys(result["metric"] for result in results))
    splits = list(dict.fromkeys((result["dataset"], result["split"]) for result in results))
    values = {(result["dataset"], result["split"], result["metric"]): result["value"] for result in results}
    rows = [
        " | ".join([" ".join(filter(None, split)), *(str(values.get((*split, name), "")) for name in metrics)])
        for split in splits
    ]
    table = [" | ".join(["data", *metrics]), "|".join(["---"] * (len(metrics) + 1)), *rows]
    return "\n".join(f"| {row} |" for row in table)


def _describe_licence(card: ModelCard | None) -> str:
    data = card.data.to_dict() if card is not None else {}
    name = data.get("license_name") or data.get("license")
    link = data.get("license_link")
    if not name:
        return "Its model card names no licence."
    return f"Licence of the weights: [{name}]({link})" if link else f"Licence of the weights: {name}"
