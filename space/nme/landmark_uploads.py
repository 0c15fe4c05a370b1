"""Uploads of visitors with their file names, and the checks that refuse any other input of a request."""

import inspect
import os
from abc import ABCMeta
from html import escape
from pathlib import Path
from typing import NamedTuple

import gradio as gr
from gradio.utils import get_upload_folder
from gradio_client.utils import is_file_obj_with_meta, is_http_url_like, traverse
from landmark_files import is_number_or_none, shorten


def refusal(message) -> gr.Error:
    """The error that shows `message` in the page, escaped, because Gradio shows it as HTML."""
    return gr.Error(escape(str(message), quote=False), duration=20, print_exception=False)


class GuardedBlocks(gr.Blocks):
    """Blocks that check the inputs of a request before Gradio uses them: files must be uploads, numbers numbers.

    Gradio takes any input that looks like a file. From a crafted request it would fetch an address, return the path of
    its own folder, or list a folder for removal, which makes the removal of all files fail.
    """

    def validate_inputs(self, block_fn, inputs: list):
        super().validate_inputs(block_fn, inputs)
        traverse(inputs, _check_file, is_file_obj_with_meta)
        for name, block, value in zip(inspect.signature(block_fn.fn).parameters, block_fn.inputs, inputs):
            if isinstance(block, gr.Number) and not is_number_or_none(value):
                raise refusal(f"{name} must be a number, but got {shorten(repr(value))}")


def _check_file(file: dict):
    path, name = file["path"], shorten(file.get("orig_name") or "a file")
    if is_http_url_like(path):
        raise refusal(f"{name} must be uploaded, but got an address")
    path = os.path.abspath(path)
    if not os.path.isfile(path) or not Path(path).resolve().is_relative_to(Path(get_upload_folder()).resolve()):
        raise refusal(f"{name} must be an upload that is still here; upload it again")


class Upload(NamedTuple):
    path: str
    name: str  # as the visitor calls the file


class _NoStubs(type(gr.File)):
    """Replaces Gradio's metaclass, which would write a .pyi beside this file."""

    def __new__(cls, name, bases, attributes):
        return ABCMeta.__new__(cls, name, bases, attributes)


class LandmarkFiles(gr.File, metaclass=_NoStubs):
    """Uploads with the names that visitors gave them."""

    def get_block_name(self) -> str:
        return "file"

    def preprocess(self, payload) -> list[Upload] | Upload | None:
        if payload is None:
            return None
        if self.file_count == "multiple":
            return [self._upload(file) for file in payload]
        return self._upload(payload)

    def _upload(self, file) -> Upload:
        return Upload(file.path, file.orig_name or Path(file.path).name)

    def example_payload(self):
        file = {"path": "landmarks.json", "url": "landmarks.json", "meta": {"_type": "gradio.FileData"}}
        return [file] if self.file_count == "multiple" else file

    example_value = example_payload
