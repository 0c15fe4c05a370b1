"""Tests of transformers that would pass over this model, or say something else than why they cannot apply."""

import unittest


def skips(reasons: dict[str, str]):
    """Decorates a class of tests: skips those whose names begin with a key, for the reason beside it."""

    def decorate(tests: type) -> type:
        for start, reason in reasons.items():
            for name in dir(tests):
                if name.startswith(start) and callable(getattr(tests, name)):
                    setattr(tests, name, unittest.skip(reason)(getattr(tests, name)))
        return tests

    return decorate
