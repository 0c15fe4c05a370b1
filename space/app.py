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

# Uploads and results go to a temporary folder, removed at exit. The variable is set before Gradio reads it.
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

CHECKPOINT_LIST = FOLDER / "checkpoints.txt"
# Requests that run at a time; the others wait in a queue. Videos and webcams take long and have their own queues.
# Each worker has the same number of threads, however many run: the last digits of a result depend on that number.
WORKERS = 2
PHOTO_QUEUE = {"concurrency_limit": WORKERS, "concurrency_id": "photos"}
VIDEO_QUEUE = {"concurrency_limit": 1, "concurrency_id": "videos"}
WEBCAM_QUEUE = {"concurrency_limit": 2, "concurrency_id": "webcams"}
QUEUE_UPDATE_SECONDS = 1  # how often the page shows the position in the queue
MAX_QUEUE_LENGTH = 200
MAX_SESSIONS = 500  # whose state is stored; the state of a session holds landmarks, no pictures
# Fonts of the visitor's system, so that the page loads nothing from other hosts.
THEME = gr.themes.Soft(font=["system-ui", "sans-serif"], font_mono=["ui-monospace", "monospace"])
TITLE = "# MTLD: facial landmarks"
# Do not break words of the card on a phone.
CSS = "#card th, #card td {word-break: normal !important; overflow-wrap: normal !important; padding: .3em .6em}"


def build(picker: Picker) -> gr.Blocks:
    """Builds the page and the endpoints for the checkpoints of `picker`."""
    with gr.Blocks(title="MTLD: facial landmarks", analytics_enabled=False) as page:
        gr.Markdown(TITLE)
        with gr.Row():
            checkpoint = gr.Dropdown(picker.labels, value=picker.labels[0], label="Checkpoint", scale=1, min_width=240)
            with gr.Column(scale=2, min_width=320):
                card = gr.Markdown(elem_id="card")
        with gr.Tab("Photo"):
            photo_tab.build(picker, checkpoint, PHOTO_QUEUE)
        with gr.Tab("Video"):
            video_tab.build(picker, checkpoint, VIDEO_QUEUE)
        with gr.Tab("Webcam"):
            webcam_tab.build(picker, checkpoint, WEBCAM_QUEUE)

        def describe_checkpoint(label):
            try:
                return describe(picker.load(label), picker.checkpoint(label))
            except ValueError as error:
                return f"**{error}**"

        gr.on(
            [page.load, checkpoint.change],
            describe_checkpoint,
            checkpoint,
            card,
            api_visibility="private",
            trigger_mode="always_last",
            concurrency_limit=None,  # a long download must not make others wait
        )
        add_endpoints(page, picker, PHOTO_QUEUE, VIDEO_QUEUE)
    return page.queue(max_size=MAX_QUEUE_LENGTH, status_update_rate=QUEUE_UPDATE_SECONDS)


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
        help="checkpoints that visitors can choose from, the first by default: directories, or ids on the Hub with an"
        " optional @REVISION. Their code runs here: name only those you trust (default: those of checkpoints.txt)",
    )
    parser.add_argument("--port", type=_port, metavar="N", help="default: the first free port from 7860 on")
    return parser.parse_args(argv)


def main(argv: list[str] | None = None) -> int:
    """Runs the command. Returns the exit status: 0, or 2 after an error, which is printed on stderr in one line."""
    arguments = parse_arguments(argv)
    logging.basicConfig(format="%(levelname)s: %(message)s", level=logging.WARNING)
    transformers_logging.set_verbosity_error()  # who serves the page needs no messages of the libraries
    hub_logging.set_verbosity_error()
    transformers_logging.disable_progress_bar()
    for name in ("SIGTERM", "SIGHUP"):  # end as with Ctrl-C, so that the temporary files are removed
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
        return read_checkpoints(CHECKPOINT_LIST.read_text(encoding="utf-8").splitlines())
    except (OSError, ValueError) as error:
        raise ValueError(f"{CHECKPOINT_LIST.name}: {error}") from error


def serve(page: gr.Blocks, port: int | None = None, **options):
    """Serves the page on 127.0.0.1, or on the address in GRADIO_SERVER_NAME, which Hugging Face sets."""
    torch.set_num_threads(max(1, (os.cpu_count() or 1) // WORKERS))
    keep_sweeping(page)
    try:
        return _launch(page, port, **options)
    except OSError as error:
        ports = f"port {port}" if port else "every port that was tried"
        raise ValueError(f"--port must be free, but {ports} is in use") from error


def _launch(page: gr.Blocks, port: int | None, **options):
    return page.launch(
        server_port=port,
        theme=THEME,
        css=CSS + photo_tab.CSS,
        max_file_size=MAX_FILE_SIZE,
        state_session_capacity=MAX_SESSIONS,
        run_history=False,
        enable_monitoring=False,
        footer_links=["api", "gradio", "settings"],
        **options,
    )


if __name__ == "__main__":
    sys.exit(main())
