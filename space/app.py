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
from picker import FOLDER, Picker, read_checkpoints
from uploads import MAX_FILE_SIZE

LIST = FOLDER / "checkpoints.txt"
# Photos, frames and calls that are worked on at a time; others wait in the queue, and see it move as often. They share
# the cores evenly, whoever else is there, as the last digits of an answer depend on the number of threads.
WORKERS = 2
QUEUE = {"concurrency_limit": WORKERS, "concurrency_id": "network"}
QUEUE_TOLD_EVERY = 1  # seconds
MAX_WAITING = 200
SWEEP_EVERY, KEEP_FOR = 60, 900  # seconds; uploads and results are removed when they are older
SESSIONS = 500  # whose state is kept; what a session keeps are landmarks, no pictures
# Fonts that are there already: the page asks no other host for anything.
THEME = gr.themes.Soft(font=["system-ui", "sans-serif"], font_mono=["ui-monospace", "monospace"])
TITLE = "# MTLD: facial landmarks"
# No words broken on a phone.
CSS = "#card th, #card td {word-break: normal !important; overflow-wrap: normal !important; padding: .3em .6em}"


def build(picker: Picker) -> gr.Blocks:
    """The page and the endpoints, on the checkpoints of `picker`."""
    with gr.Blocks(
        title="MTLD: facial landmarks", analytics_enabled=False, delete_cache=(SWEEP_EVERY, KEEP_FOR)
    ) as page:
        gr.Markdown(TITLE)
        with gr.Row():
            checkpoint = gr.Dropdown(picker.labels, value=picker.labels[0], label="Checkpoint", scale=1, min_width=240)
            with gr.Column(scale=2, min_width=320):
                card = gr.Markdown(elem_id="card")
        with gr.Tab("Photo"):
            photo_tab.build(picker, checkpoint, QUEUE)
        with gr.Tab("Video"):
            video_tab.build(picker, checkpoint, QUEUE)
        with gr.Tab("Webcam"):
            webcam_tab.build(picker, checkpoint, QUEUE)

        def tell(label):
            try:
                return describe(picker.load(label), picker.checkpoint(label))
            except ValueError as error:
                return f"**{error}**"

        gr.on([page.load, checkpoint.change], tell, checkpoint, card, api_visibility="private")
        add_endpoints(picker, QUEUE)
    return page.queue(max_size=MAX_WAITING, status_update_rate=QUEUE_TOLD_EVERY)


class Parser(argparse.ArgumentParser):
    def error(self, message):
        self.exit(2, f"app: {message}\n")


def parse_arguments(argv: list[str] | None) -> argparse.Namespace:
    parser = Parser(prog="python app.py", description="Serves the demo of MTLD in a browser.")
    parser.add_argument(
        "--checkpoints",
        nargs="+",
        metavar="DIR_OR_ID",
        help="what visitors can choose from, the first by default: directories and ids on the Hub, with @REVISION if"
        " wanted. Their code runs here: name those that you trust (default: those of checkpoints.txt)",
    )
    parser.add_argument("--port", type=int, metavar="N", help="default: the first free one from 7860 on")
    return parser.parse_args(argv)


def main(argv: list[str] | None = None) -> int:
    """Runs the command. Returns the exit status: 0, or 2 after one line on stderr where it cannot be done."""
    arguments = parse_arguments(argv)
    logging.basicConfig(format="%(levelname)s: %(message)s", level=logging.WARNING)
    signal.signal(signal.SIGTERM, signal.default_int_handler)  # so that it ends as with Ctrl-C, and leaves no files
    try:
        if arguments.checkpoints:
            checkpoints = read_checkpoints(arguments.checkpoints, Path.cwd())
        else:
            checkpoints = read_checkpoints(LIST.read_text(encoding="utf-8").splitlines())
        serve(build(Picker(checkpoints)), arguments.port)
    except (OSError, ValueError) as error:
        print(f"app: {' '.join(str(error).split())}", file=sys.stderr)
        return 2
    return 0


def serve(page: gr.Blocks, port: int | None = None, **options):
    """Serves the page, on 127.0.0.1 unless GRADIO_SERVER_NAME says otherwise, as it does on Hugging Face."""
    torch.set_num_threads(max(1, (os.cpu_count() or 1) // WORKERS))
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
