"""What visitors upload, by the names they gave it, and how they are refused."""

from abc import ABCMeta
from html import escape
from pathlib import Path
from typing import NamedTuple

import gradio as gr
from gradio_client.utils import is_http_url_like


def refusal(message) -> gr.Error:
    """The error that shows `message` in the page; Gradio takes it for HTML."""
    return gr.Error(escape(str(message), quote=False), duration=20, print_exception=False)


class Upload(NamedTuple):
    path: str
    name: str  # the visitor's


class _NoStubs(type(gr.File)):
    """Gradio's own metaclass would write a .pyi beside this file."""

    def __new__(cls, name, bases, attributes):
        return ABCMeta.__new__(cls, name, bases, attributes)


class LandmarkFiles(gr.File, metaclass=_NoStubs):
    """Uploads with the names that visitors gave them. An address is refused; Gradio would fetch what is there."""

    def get_block_name(self) -> str:
        return "file"

    async def async_move_resource_to_block_cache(self, url_or_file_path):
        if url_or_file_path is not None and is_http_url_like(str(url_or_file_path)):
            raise refusal("a file must be uploaded, but got an address")
        return await super().async_move_resource_to_block_cache(url_or_file_path)

    def preprocess(self, payload) -> list[Upload] | Upload | None:
        if payload is None:
            return None
        if self.file_count == "multiple":
            return [self._upload(file) for file in payload]
        return self._upload(payload)

    def _upload(self, file) -> Upload:
        if is_http_url_like(file.path):  # of what claims to be a stream, which is not moved
            raise refusal("a file must be uploaded, but got an address")
        return Upload(file.path, file.orig_name or Path(file.path).name)

    def example_payload(self):
        file = {"path": "landmarks.json", "url": "landmarks.json", "meta": {"_type": "gradio.FileData"}}
        return [file] if self.file_count == "multiple" else file

    example_value = example_payload
