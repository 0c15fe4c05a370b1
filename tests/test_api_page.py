"""The page of the API: made from docstrings."""

import inspect

from training_mtld.api_page import METHODS, api_page, markdown

DOCSTRING = """Takes points.

    Args:
        points: (K, 2), in
            pixels.
        size (`int`): of the face.

    Returns:
        (K, 2) float64,
        filtered.

    It is fast."""
MARKDOWN = """Takes points.

**Args**

- `points`: (K, 2), in
  pixels.
- `size` (`int`): of the face.

**Returns**

(K, 2) float64,
filtered.

It is fast.
"""


def test_sections_become_lists():
    assert markdown(DOCSTRING) == MARKDOWN


def test_everything_public_is_described_with_its_arguments():
    page = api_page()
    for described, methods in METHODS.items():
        assert f"## {described.__name__}\n" in page
        for name in methods:
            function = inspect.unwrap(getattr(described, name))
            own = page.partition(f"## {described.__name__}\n")[2]
            arguments = own.partition(f"\n{name}(")[2].partition("\n```")[0]
            assert all(
                argument in arguments for argument in inspect.signature(function).parameters if argument != "self"
            )
    assert "hidden_size=96," in page and "- `predictions`: (N, K, 2)" in page
