"""The demo of MTLD: `python app.py` serves it on this machine; on Hugging Face it is a Space."""

import argparse
import atexit
import logging
import os
import shutil
import signal
import sys
import tempfile
from pathlib import Path

# A folder of its own for uploads and results, before Gradio reads its name. It goes when the server does.
if "GRADIO_TEMP_DIR" not in os.environ:
    os.environ["GRADIO_TEMP_DIR"] = tempfile.mkdtemp(prefix="mtld-demo-")
    atexit.register(shutil.rmtree, os.environ["GRADIO_TEMP_DIR"], ignore_errors=True)

import gradio as gr
import photo_tab
import torch
import video_tab
import webcam_tab
from cards import describe
from endpoints import add_endpoints
from huggingface_hub.utils import logging as hub_logging
from picker import FOLDER, Checkpoint, Picker, read_checkpoints
from transformers.utils import logging as transformers_logging
from uploads import MAX_FILE_SIZE, keep_sweeping

LIST = FOLDER / "checkpoints.txt"
# What is worked on at a time; others wait in the queue, and see it move as often. Videos and webcams take long, and so
# have places of their own. All share the cores evenly, whoever else is there: on the number of threads the last digits
# of an answer depend.
WORKERS = 2
PHOTOS = {"concurrency_limit": WORKERS, "concurrency_id": "photos"}
VIDEOS = {"concurrency_limit": 1, "concurrency_id": "videos"}
WEBCAMS = {"concurrency_limit": 2, "concurrency_id": "webcams"}
QUEUE_TOLD_EVERY = 1  # seconds
MAX_WAITING = 200
SESSIONS = 500  # whose state is kept; what a session keeps are landmarks, no pictures
# Fonts that are there already: the page loads nothing from other hosts.
THEME = gr.themes.Soft(font=["system-ui", "sans-serif"], font_mono=["ui-monospace", "monospace"])
TITLE = "# MTLD: facial landmarks"
# No words broken on a phone.
CSS = "#card th, #card td {word-break: normal !important; overflow-wrap: normal !important; padding: .3em .6em}"


def build(picker: Picker) -> gr.Blocks:
    """The page and the endpoints, on the checkpoints of `picker`."""
    with gr.Blocks(title="MTLD: facial landmarks", analytics_enabled=False) as page:
        gr.Markdown(TITLE)
        with gr.Row():
            checkpoint = gr.Dropdown(picker.labels, value=picker.labels[0], label="Checkpoint", scale=1, min_width=240)
            with gr.Column(scale=2, min_width=320):
                card = gr.Markdown(elem_id="card")
        with gr.Tab("Photo"):
            photo_tab.build(picker, checkpoint, PHOTOS)
        with gr.Tab("Video"):
            video_tab.build(picker, checkpoint, VIDEOS)
        with gr.Tab("Webcam"):
            webcam_tab.build(picker, checkpoint, WEBCAMS)

        def tell(label):
            try:
                return describe(picker.load(label), picker.checkpoint(label))
            except ValueError as error:
                return f"**{error}**"

        gr.on(
            [page.load, checkpoint.change],
            tell,
            checkpoint,
            card,
            api_visibility="private",
            trigger_mode="always_last",
            concurrency_limit=None,  # a download that takes long keeps nobody else waiting
        )
        add_endpoints(page, picker, PHOTOS, VIDEOS)
    return page.queue(max_size=MAX_WAITING, status_update_rate=QUEUE_TOLD_EVERY)


class Parser(argparse.ArgumentParser):
    def error(self, message):
        self.exit(2, f"app: {message}\n")


def _port(text: str) -> int:
    if not text.isdecimal() or not 1 <= int(text) <= 65535:
        raise argparse.ArgumentTypeError(f"must be from 1 to 65535, but got {text}")
    return int(text)


def parse_arguments(argv: list[str] | None) -> argparse.Namespace:
    parser = Parser(prog="python app.py", description="Serves the demo of MTLD in a browser.")
    parser.add_argument(
        "--checkpoints",
        nargs="+",
        metavar="DIR_OR_ID",
        help="what visitors can choose from, the first by default: directories and ids on the Hub, with @REVISION if"
        " wanted. Their code runs here: name those that you trust (default: those of checkpoints.txt)",
    )
    parser.add_argument("--port", type=_port, metavar="N", help="default: the first free one from 7860 on")
    return parser.parse_args(argv)


def main(argv: list[str] | None = None) -> int:
    """Runs the command. Returns the exit status: 0, or 2 after one line on stderr where it cannot be done."""
    arguments = parse_arguments(argv)
    logging.basicConfig(format="%(levelname)s: %(message)s", level=logging.WARNING)
    transformers_logging.set_verbosity_error()  # who serves the page need not read what they tell of their own work
    hub_logging.set_verbosity_error()
    transformers_logging.disable_progress_bar()
    for name in ("SIGTERM", "SIGHUP"):  # so that it ends as with Ctrl-C, and leaves no files
        if hasattr(signal, name):
            signal.signal(getattr(signal, name), signal.default_int_handler)
    try:
        serve(build(Picker(_read_checkpoints(arguments.checkpoints))), arguments.port)
    except ValueError as error:
        print(f"app: {' '.join(str(error).split())}", file=sys.stderr)
        return 2
    return 0


def _read_checkpoints(names: list[str] | None) -> list[Checkpoint]:
    if names:
        return read_checkpoints(names, Path.cwd())
    try:
        return read_checkpoints(LIST.read_text(encoding="utf-8").splitlines())
    except (OSError, ValueError) as error:
        raise ValueError(f"{LIST.name}: {error}") from error


def serve(page: gr.Blocks, port: int | None = None, **options):
    """Serves the page, on 127.0.0.1 unless GRADIO_SERVER_NAME says otherwise, as it does on Hugging Face."""
    torch.set_num_threads(max(1, (os.cpu_count() or 1) // WORKERS))
    keep_sweeping(page)
    try:
        return _launch(page, port, **options)
    except OSError as error:
        taken = f"port {port}" if port else "every port that was tried"
        raise ValueError(f"--port must be free, but {taken} is in use") from error


def _launch(page: gr.Blocks, port: int | None, **options):
    return page.launch(
        server_port=port,
        theme=THEME,
        css=CSS + photo_tab.CSS,
        max_file_size=MAX_FILE_SIZE,
        state_session_capacity=SESSIONS,
        run_history=False,
        enable_monitoring=False,
        footer_links=["api", "gradio", "settings"],
        **options,
    )


if __name__ == "__main__":
    sys.exit(main())
