"""Pushing to the Hub what `save_pretrained` writes, its model card included."""

import os
import tempfile
from collections.abc import Iterable
from pathlib import Path

from huggingface_hub import CommitInfo, CommitOperationAdd, ModelCard, create_branch, create_commit, create_repo
from huggingface_hub.errors import EntryNotFoundError

from .auto_mtld import CODE_FILES
from .model_card_mtld import CARD, CHECKPOINT_PLACEHOLDER, RECORD, is_generated

CONFIGURATION_FILES = ("config.json", *CODE_FILES)
PROCESSOR_FILES = ("preprocessor_config.json", *CODE_FILES)
CHECKPOINT_FILES = (*CONFIGURATION_FILES, *PROCESSOR_FILES, "model*.safetensors*", RECORD, CARD)


def push_saved(saved, *, repo_id: str, max_shard_size: int | str, **options) -> CommitInfo:
    """`PushToHub.push_to_hub` of `saved`, anything with `save_pretrained`."""
    with tempfile.TemporaryDirectory() as directory:
        saved.save_pretrained(directory, max_shard_size=max_shard_size)
        return push_directory(saved, directory, repo_id=repo_id, **options)


def push_directory(
    saved, directory: str | os.PathLike, tags: str | Iterable[str] | None = None, max_shard_size=None, **options
) -> CommitInfo:
    """Pushes what was saved, with the model's own tags (`PreTrainedModel.add_model_tags`). A pipeline passes its
    options to all that it saves."""
    tags = [*(getattr(saved, "model_tags", None) or ()), *([tags] if isinstance(tags, str) else tags or ())]
    return push_checkpoint(directory, tags=tags, **options)


def push_checkpoint(
    directory: str | os.PathLike,
    *,
    repo_id: str | None = None,
    files: Iterable[str] = CHECKPOINT_FILES,
    commit_message: str | None = None,
    commit_description: str | None = None,
    private: bool | None = None,
    token: str | bool | None = None,
    revision: str | None = None,
    create_pr: bool = False,
    tags: Iterable[str] = (),
) -> CommitInfo:
    """Pushes a directory that `save_pretrained` wrote, in one commit.

    A README.md on the Hub that somebody has written stays; only `tags` are added to it.

    Args:
        repo_id: on the Hub; the directory's name in the user's namespace where not given.
        files: names or patterns of those to push, as far as they are in `directory`.
        commit_message, commit_description, token, revision, create_pr: as in `huggingface_hub.create_commit`.
        private: of a new repository; None leaves it to the Hub.
        tags: for the model card.
    """
    repo_id = repo_id or Path(directory).resolve().name
    repo_id = create_repo(repo_id, private=private, token=token, exist_ok=True).repo_id
    if revision is not None and not revision.startswith("refs/pr"):
        create_branch(repo_id, branch=revision, token=token, exist_ok=True)
    paths = {path.name: path for pattern in files for path in sorted(Path(directory).glob(pattern))}
    card = _card(paths.pop(CARD, None), repo_id, tags, token)
    additions = [CommitOperationAdd(name, path) for name, path in paths.items()]
    if card is not None:
        additions.append(CommitOperationAdd(CARD, card.encode()))
    return create_commit(
        repo_id,
        additions,
        commit_message=commit_message or "Upload MTLD",
        commit_description=commit_description,
        token=token,
        revision=revision,
        create_pr=create_pr,
    )


PUSH_OPTIONS = tuple(push_checkpoint.__kwdefaults__)


def _card(path: Path | None, repo_id: str, tags: Iterable[str], token: str | bool | None) -> str | None:
    """The README.md to push: the Hub's if somebody has written it, else that at `path`; None if the Hub's can stay."""
    try:
        card = ModelCard.load(repo_id, token=token)
    except EntryNotFoundError:
        card = None
    own = path is not None and (card is None or is_generated(card.content))
    if own:
        card = ModelCard(path.read_text(encoding="utf-8").replace(CHECKPOINT_PLACEHOLDER, repo_id))
    present = card.data.tags or [] if card is not None else []
    missing = [tag for tag in dict.fromkeys(tags) if tag not in present]
    if card is None or not (own or missing):
        return None
    card.data.tags = [*present, *missing]
    return card.content
