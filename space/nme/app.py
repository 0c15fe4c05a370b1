"""The metric's Space: it takes two files of landmarks, and returns NME, failure rate, AUC and the error curve.

`python app.py` serves it on 127.0.0.1. On a Space, Gradio's environment variables set the address.
"""

import argparse
import signal
from pathlib import Path

import gradio as gr
import numpy as np
from landmark_files import MAX_BYTES, Faces, read_faces
from landmark_scores import score_faces
from landmark_uploads import GuardedBlocks, LandmarkFiles, Upload, refusal
from score_plots import COLORS, draw_ced, draw_landmarks
from score_report import CSS, report

EXAMPLES = Path(__file__).resolve().parent / "examples"
FILE_AGE_SECONDS = 3600  # after which uploads and plots are removed
NORMALIZERS = [
    ("the usual one for this number of points", "auto"),
    ("inter-ocular: outer eye corners (29, 68, 98 points)", "inter-ocular"),
    ("inter-pupil (29, 68, 98 points)", "inter-pupil"),
    ("box around the points: √(width × height)", "box"),
    ("box around the points: diagonal", "diagonal"),
    ("distance between two points of your choice", "two points"),
]
INTRODUCTION = """
# Score facial landmarks

Two files, **predictions** and **references**, give the normalised mean error (NME), failure rate (FR), area under the
curve (AUC) and the cumulative error distribution (CED). Several files of predictions are compared.
"""
FORMATS = """
Faces and points are counted from 0, and x comes before y. Any unit will do, if both files use the same. References may
lack points; predictions may not. If both files have an `image_id`, faces are matched by it, and each face must be in
both files. Otherwise they are matched by order. A file has at most 50 MB and a million points, in UTF-8.

**CSV**, one face a row. The header and `image_id` are optional; a cell is empty where a point is not annotated.

```
image_id,x0,y0,x1,y1,x2,y2
anna.jpg,31.5,40,62.5,41,47,58.2
ben.jpg,30,38.1,,,45.5,57
```

**JSON**, a list of faces, or a dict of faces by `image_id`. `null` is a point that is not annotated.

```
{"anna.jpg": [[31.5, 40], [62.5, 41], [47, 58.2]],
 "ben.jpg":  [[30, 38.1], null, [45.5, 57]]}
```

The JSON of the landmark pipeline and of `python -m modeling_mtld.detect` works too: for each photo
`{"landmarks": [{"x": …, "y": …}, …]}`, optionally in a list of one face and with an `"image_id"`.
"""
SAVE = """(scores) => {
  const link = document.createElement("a");
  link.href = URL.createObjectURL(new Blob([JSON.stringify(scores, null, 1)], {type: "application/json"}));
  link.download = "nme.json";
  link.click();
  setTimeout(() => URL.revokeObjectURL(link.href), 1000);
  return [];
}"""


def score(
    predictions: list[Upload] | None,
    references: Upload | None,
    normalizer: str = "auto",
    first_point: int = 0,
    second_point: int = 1,
    failure_threshold: float = 0,
    auc_threshold: float = 0,
) -> tuple[dict, np.ndarray, np.ndarray, str]:
    """Scores predicted facial landmarks against annotated ones.

    Args:
        predictions: files of predicted landmarks, .csv or .json; each file is scored
        references: file of annotated landmarks, .csv or .json
        normalizer: what errors are divided by: auto, inter-ocular, inter-pupil, box, diagonal or two points
        first_point: number of the first of the two points, from 0
        second_point: number of the second of the two points, from 0
        failure_threshold: percent of the normaliser above which a face fails; 0 is 8 for 68 points, else 10
        auc_threshold: percent at which the area under the curve ends; 0 is 8 for 68 points, else 10

    Returns:
        all numbers, as fractions, with the settings; the cumulative error distribution; the error of each landmark;
        the main numbers in percent as HTML
    """
    try:
        scores = _score(
            predictions, references, normalizer, (first_point, second_point), failure_threshold, auc_threshold
        )
        return scores, draw_ced(scores), draw_landmarks(scores), report(scores)
    except ValueError as error:
        raise refusal(error) from error


def _score(predictions, references, normalizer, points, *percents) -> dict:
    inputs = {"predictions": predictions, "references": references}
    if names := " and of ".join(name for name, files in inputs.items() if not files):
        raise ValueError(f"a file of {names} must be given, but there is none")
    if len(predictions) > len(COLORS):
        raise ValueError(f"at most {len(COLORS)} files of predictions can be compared, but got {len(predictions)}")
    thresholds = [percent / 100 if percent else None for percent in percents]
    truth = read_faces(*references)
    files = _number_duplicates([read_faces(*file) for file in predictions])
    return score_faces(files, truth, normalizer, points, *thresholds)


def _number_duplicates(files: list[Faces]) -> list[Faces]:
    """Appends a number to the names of files whose name has occurred before."""
    names = [file.name for file in files]
    counts = [names[: index + 1].count(name) for index, name in enumerate(names)]
    return [
        Faces(f"{file.name} ({number})", file.points, file.ids) if number > 1 else file
        for file, number in zip(files, counts)
    ]


def load_example() -> tuple[list[str], str]:
    return [str(EXAMPLES / "model_a.json"), str(EXAMPLES / "model_b.csv")], str(EXAMPLES / "references.csv")


def build() -> gr.Blocks:
    """Builds the page, to be launched with `launch_options`."""
    with GuardedBlocks(title="NME", analytics_enabled=False, delete_cache=(600, FILE_AGE_SECONDS)) as page:
        gr.Markdown(INTRODUCTION)
        with gr.Row():
            with gr.Column(scale=2, min_width=300):
                inputs, example = _inputs()
                button = gr.Button("Score", variant="primary")
                with gr.Accordion("File formats", open=False):
                    gr.Markdown(FORMATS)
            with gr.Column(scale=3, min_width=300):
                outputs = _outputs()
        button.click(score, inputs, outputs, api_name="score", concurrency_limit=2, show_progress_on=outputs[-1])
        example.click(load_example, None, inputs[:2], api_visibility="private", queue=False)
    return page.queue(max_size=50)


def _inputs() -> tuple[list, gr.Button]:
    kinds = [".csv", ".json"]
    predictions = LandmarkFiles(
        file_count="multiple", file_types=kinds, label="Predictions, one or several files", height=140
    )
    references = LandmarkFiles(file_types=kinds, label="References", height=140)
    example = gr.Button("Load the example files", size="sm")
    normalizer = gr.Dropdown(NORMALIZERS, value="auto", label="Normaliser: errors are divided by")
    with gr.Row(visible=False) as point_row:
        points = [
            gr.Number(number, precision=0, label=f"{place} point", minimum=0, min_width=100)
            for number, place in enumerate(("First", "Second"))
        ]
    with gr.Row():
        thresholds = [
            gr.Number(0, label=label, info="0: 8 for 68 points, else 10", min_width=140)
            for label in ("Fails above, %", "AUC ends at, %")
        ]
    normalizer.change(
        lambda kind: gr.Row(visible=kind == "two points"), normalizer, point_row, api_visibility="private", queue=False
    )
    return [predictions, references, normalizer, *points, *thresholds], example


def _outputs() -> list:
    image = {"format": "png", "interactive": False, "buttons": ["download", "fullscreen"]}
    table = gr.HTML("<p>The scores appear here.</p>", label="Report", min_height=60)
    ced = gr.Image(label="Cumulative error distribution", show_label=False, **image)
    landmarks = gr.Image(label="Error of each landmark", show_label=False, **image)
    save = gr.Button("Download all numbers as JSON", size="sm")
    with gr.Accordion("All numbers, as fractions", open=False):
        numbers = gr.JSON(label="Scores", show_label=False, max_height=400)
    save.click(None, numbers, None, js=SAVE)
    return [numbers, ced, landmarks, table]


def launch_options() -> dict:
    """Arguments of `launch`. The page loads nothing from other hosts, fonts included."""
    return {
        "show_error": True,
        "max_file_size": MAX_BYTES,
        "allowed_paths": [str(EXAMPLES)],
        "run_history": False,
        "enable_monitoring": False,
        "footer_links": ["api", "gradio", "settings"],
        "theme": gr.themes.Default(font=["system-ui", "sans-serif"], font_mono=["ui-monospace", "monospace"]),
        "css": CSS,
    }


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description="Serves the metric's page on 127.0.0.1.")
    parser.add_argument("--port", type=int, help="default: the first free port from 7860 on")
    signal.signal(signal.SIGTERM, signal.default_int_handler)  # end as with Ctrl-C, so that Gradio deletes its files
    try:
        build().launch(server_port=parser.parse_args().port, **launch_options())
    except OSError as error:  # no free port
        parser.exit(2, f"{parser.prog}: {error}\n")
