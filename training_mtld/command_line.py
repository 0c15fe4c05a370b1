"""What the commands share: a parser that names the nearest option, and the command as it is recorded."""

import argparse
import difflib
import shlex
from collections.abc import Iterable, Sequence
from pathlib import Path

UNKNOWN = "unrecognized arguments: "  # as argparse begins its message


class Parser(argparse.ArgumentParser):
    def error(self, message: str):
        """Raises ValueError with `message`, and the nearest options where one is unknown."""
        if message.startswith(UNKNOWN):
            words = [word.partition("=")[0] for word in message.removeprefix(UNKNOWN).split() if word.startswith("-")]
            message += did_you_mean(words, self._option_string_actions)
        raise ValueError(message)


def did_you_mean(words: Iterable[str], names: Iterable[str]) -> str:
    """The end of a message on unknown `words`; empty where no name is near."""
    near = dict.fromkeys(name for word in words for name in difflib.get_close_matches(word, list(names), n=1))
    return f"; did you mean {' and '.join(near)}?" if near else ""


def command_line(arguments: Sequence[str]) -> str:
    """The command as typed, quoted for a shell. Absolute paths are cut to their last part, as the rest is local."""
    return shlex.join(map(_without_folder, arguments))


def _without_folder(argument: str) -> str:
    option, equals, value = argument.partition("=") if argument.startswith("--") else ("", "", argument)
    return option + equals + ((Path(value).name or value) if value.startswith(("/", "~")) else value)
