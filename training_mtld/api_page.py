"""Generates modeling_mtld/API.md from the docstrings of the public classes and functions."""

import inspect
import re

import evaluate

from modeling_mtld.configuration_mtld import MTLDConfig, Topology
from modeling_mtld.drawing_mtld import draw_faces
from modeling_mtld.image_processing_mtld import MTLDImageProcessor
from modeling_mtld.modeling_mtld import MTLDForFacialLandmarkDetection, MTLDOutput
from modeling_mtld.pipeline_mtld import FacialLandmarkDetectionPipeline
from modeling_mtld.tracking_mtld import LandmarkTracker, OneEuroFilter

from .evaluation.scores import METRIC

METHODS = {  # the public methods of each class
    FacialLandmarkDetectionPipeline: ("__call__", "tracker", "draw", "align", "box_around"),
    MTLDImageProcessor: ("preprocess", "post_process_landmark_detection", "box_around"),
    MTLDForFacialLandmarkDetection: ("forward", "set_mean_face", "load_backbone_weights", "save_pretrained"),
    MTLDOutput: (),
    MTLDConfig: (),
    Topology: (),
    LandmarkTracker: ("__call__", "reset"),
    OneEuroFilter: ("__call__", "reset"),
}
RESULTS = (MTLDOutput, Topology)  # classes that users read and do not construct
HEAD = """# API

What the public classes take and return. This page is made from their docstrings by `python -m training_mtld.readme`.
[How to use them](README.md#from-python) is on the page of the folder.
"""
SECTION = re.compile(r"(Args|Attributes|Returns|Raises|Returns a dict of):?")
ITEM = re.compile(r"(?P<name>[\w*.]+(?:, [\w*.]+)*)(?P<kind> \([^)]*\))?: (?P<text>.*)")


def api_page() -> str:
    """The page as Markdown."""
    sections = [HEAD]
    for public_class, methods in METHODS.items():
        sections += _entry("##", public_class.__name__, public_class)
        for name in methods:
            title = public_class.__name__ if name == "__call__" else f"{public_class.__name__}.{name}"
            sections += _entry("###", title + ("(...)" if name == "__call__" else ""), getattr(public_class, name))
    sections += _entry("##", "draw_faces", draw_faces)
    sections += ["## The metric `nme`\n", markdown(evaluate.load(str(METRIC)).inputs_description)]
    return "\n".join(sections).rstrip() + "\n"


def _entry(level: str, title: str, target) -> list[str]:
    call = _call(target)
    return [
        f"{level} {title}\n",
        *([f"```python\n{call}\n```\n"] if call else []),
        markdown(inspect.getdoc(target)),
    ]


def _call(target) -> str:
    """The signature of a function or class without annotations; empty for a class without arguments of its own."""
    if target is MTLDConfig:
        defaults = (f"    {name}={getattr(MTLDConfig, name)!r}," for name in MTLDConfig.__annotations__)
        return "\n".join(["MTLDConfig(", *(line for line in defaults if "=<" not in line), ")"])
    if target in RESULTS:
        return ""
    parameters = inspect.signature(inspect.unwrap(target)).parameters.values()
    if all(parameter.kind in (parameter.VAR_POSITIONAL, parameter.VAR_KEYWORD) for parameter in parameters):
        return ""
    parameters = [one.replace(annotation=inspect.Parameter.empty) for one in parameters if one.name != "self"]
    return f"{target.__name__}{inspect.Signature(parameters)}"


def markdown(docstring: str) -> str:
    """A docstring with sections (`Args:` and so on) as Markdown: arguments as a list, examples as code."""
    lines, section, in_list = [], None, False
    for line in inspect.cleandoc(docstring).splitlines():
        if SECTION.fullmatch(line):
            section, in_list = line.rstrip(":"), False
            lines += [f"**{section}**", ""]
        elif section and line.startswith("    "):
            item = ITEM.fullmatch(line[4:])
            in_list = in_list or bool(item)
            lines.append(_item(item) if item else ("  " if in_list else "") + line.strip())
        else:
            section = section if not line else None
            lines.append(line)
    return "\n".join(lines) + "\n"


def _item(match: re.Match) -> str:
    return f"- `{match['name']}`{match['kind'] or ''}: {match['text']}"
