import shlex
import subprocess

from training_mtld.command_line import command_line
from training_mtld.facts import git_commit, library_versions


def test_shown_command_can_be_typed_again_and_hides_where_this_machine_keeps_things():
    words = [
        "accelerate",
        "launch",
        "--data_dir",
        "../my data",
        "--out=/home/me/out/",
        "/a/b=c/d",
        "~/x",
        "--config",
        "a=1",
    ]
    assert command_line(words) == "accelerate launch --data_dir '../my data' --out=out d x --config a=1"
    assert shlex.split(command_line(["a", "it's", "$HOME"])) == ["a", "it's", "$HOME"]
    assert command_line(["/"]) == "/"


def test_versions_of_what_trains():
    assert set(library_versions()) == {"torch", "transformers", "timm", "accelerate"}


def test_commit_and_uncommitted_changes(tmp_path):
    assert git_commit(tmp_path) is None and git_commit(tmp_path / "missing") is None

    def git(*words):
        identity = ("-c", "user.name=n", "-c", "user.email=e@example.org")
        return subprocess.run(["git", "-C", tmp_path, *identity, *words], check=True, capture_output=True, text=True)

    git("init")
    (tmp_path / "file").write_text("1")
    git("add", "file")
    git("commit", "-m", "first")
    (tmp_path / "untracked").write_text("outputs lie here")
    commit = git("rev-parse", "HEAD").stdout.strip()
    assert git_commit(tmp_path) == commit
    (tmp_path / "file").write_text("2")
    assert git_commit(tmp_path) == f"{commit} with uncommitted changes"
