"""`python -m modeling_mtld.export`: a checkpoint for other runtimes, without the code of this package.

The exported network takes crops as they are cut out of a photo, (batch, size, size, 3) uint8 RGB. It returns
`landmarks` (batch, K, 2), fractions of the crop, and `scores`, `scales` and `visibilities` (batch, K), those that the
network has, as in `MTLDOutput`. The batch may be of any size. What else a program needs is in the file as JSON under
the name "mtld"; see `facts_of`.
"""

import argparse
import json
import math
import shutil
import sys
import tempfile
from collections.abc import Callable
from pathlib import Path

import numpy as np
import torch
from torch import nn

from .auto_mtld import first_line
from .configuration_mtld import find_topology
from .detect import CHECKPOINT, load_pipeline
from .int8 import calibration_crops, nme_of
from .yunet_mtld import YUNET_FILE, YuNet, download_yunet

KEY = "mtld"  # of the facts in a file
DETECTOR = "detector.onnx"  # beside an ONNX network; onnx_landmarks.py and the page in the browser look for it there
RUNTIME = Path(__file__).with_name("onnx_landmarks.py")
EXTRAS = {"executorch": "executorch"}  # of pyproject.toml, where it is not "export"
OUTPUTS = ("landmarks", "scores", "scales", "visibilities")  # those that the network has
TOLERANCES = {"onnx": 1e-3, "torch": 1e-3, "executorch": 1e-3, "openvino": 1e-2}  # pixels of the crop, in float32
HALF_TOLERANCE = 0.5  # pixels of the crop, with weights in half precision
INT8_TOLERANCE = 0.01  # of the crop's side: the mean distance of landmarks on the calibration's crops
EXECUTORCH_BATCH = 64  # largest one: its memory is planned when the file is written
OPSET = 20  # the first with linear GridSample


class CropsToLandmarks(nn.Module):
    """The network with the normalisation of its processor before it; see the module."""

    def __init__(self, pipeline, topology: str | None):
        super().__init__()
        self.model, self.topology = pipeline.model.eval().requires_grad_(False), topology
        processor = pipeline.image_processor
        scale = processor.rescale_factor if processor.do_rescale else 1.0
        mean, std = (processor.image_mean, processor.image_std) if processor.do_normalize else (0.0, 1.0)
        std = torch.tensor(std).expand(3)
        self.register_buffer("factors", (scale / std).view(3, 1, 1))
        self.register_buffer("shifts", (-torch.tensor(mean) / std).view(3, 1, 1))

    def forward(self, crops: torch.Tensor) -> dict[str, torch.Tensor]:
        pixel_values = crops.permute(0, 3, 1, 2).float() * self.factors + self.shifts
        outputs = self.model(pixel_values=pixel_values, topology=self.topology)
        return {name: outputs[name] for name in OUTPUTS if outputs.get(name) is not None}


def facts_of(pipeline, topology: str | None) -> dict:
    """What a program needs beside the network: `image_size`; `box_enlargement`, the side of the crop over the longer
    side of the box; `box_margins`, what boxes are wider than the landmark box, over its longer side (left, top, right,
    below); `min_face_score`, of a face that was detected; `landmark_names`; `flip_pairs`."""
    config, processor = pipeline.model.config, pipeline.image_processor
    chosen = find_topology(config, topology)
    margins = processor.box_margins if topology is None else processor.topologies[topology]["box_margins"]
    count = config.num_landmarks if chosen.landmarks is None else len(chosen.landmarks)
    return {
        "image_size": processor.size["height"],
        "box_enlargement": processor.box_enlargement,
        "box_margins": list(margins),
        "min_face_score": pipeline.min_score,
        "landmark_names": chosen.landmark_names or [str(index) for index in range(count)],
        "flip_pairs": chosen.flip_pairs or [],
    }


def example(size: int, batch: int = 2) -> torch.Tensor:
    return torch.randint(0, 256, (batch, size, size, 3), dtype=torch.uint8, generator=torch.Generator().manual_seed(0))


def write_onnx(program: torch.export.ExportedProgram, facts: dict, half: bool, folder: Path, calibration=None):
    """model.onnx, and the runtime without PyTorch beside it; with crops for `calibration` in 8-bit integers."""
    import onnx

    names = [name for name in OUTPUTS if name in program.module()(crops=example(facts["image_size"]))]
    torch.onnx.export(
        program, f=folder / "model.onnx", output_names=names, opset_version=OPSET, external_data=False, verbose=False
    )
    if calibration is not None:
        from .int8 import quantize

        quantize(folder / "model.onnx", calibration)
    model = onnx.load(folder / "model.onnx")
    if half:
        store_in_half(model)
    onnx.helper.set_model_props(model, {KEY: json.dumps(facts)})
    onnx.checker.check_model(model)
    onnx.save(model, folder / "model.onnx")
    shutil.copy(RUNTIME, folder)


def store_in_half(model):
    """Rounds the weights of an ONNX model to float16 in the file. They are float32 again before they are used."""
    import onnx

    weights = [one for one in model.graph.initializer if one.data_type == onnx.TensorProto.FLOAT and len(one.dims) > 1]
    for one in weights:
        values, name = onnx.numpy_helper.to_array(one), one.name
        one.CopyFrom(onnx.numpy_helper.from_array(values.astype(np.float16), f"{name}_half"))
        cast = onnx.helper.make_node("Cast", [one.name], [name], to=onnx.TensorProto.FLOAT)
        model.graph.node.insert(0, cast)


def write_torch(program: torch.export.ExportedProgram, facts: dict, half: bool, folder: Path, calibration=None):
    """model.pt2, for `torch.export.load`."""
    torch.export.save(program, folder / "model.pt2", extra_files={KEY: json.dumps(facts)})


def write_openvino(program: torch.export.ExportedProgram, facts: dict, half: bool, folder: Path, calibration=None):
    """model.xml and model.bin."""
    import openvino

    with tempfile.TemporaryDirectory() as onnx_folder:
        write_onnx(program, facts, False, Path(onnx_folder), calibration)
        model = openvino.convert_model(Path(onnx_folder) / "model.onnx")
    model.set_rt_info(json.dumps(facts), [KEY])
    openvino.save_model(model, folder / "model.xml", compress_to_fp16=half)


def write_executorch(program: torch.export.ExportedProgram, facts: dict, half: bool, folder: Path, calibration=None):
    """model.pte, for phones, on XNNPACK; and the facts in mtld.json, as the file has no place for them."""
    from executorch.backends.xnnpack.partition.xnnpack_partitioner import XnnpackPartitioner
    from executorch.exir import to_edge_transform_and_lower

    lowered = to_edge_transform_and_lower(program, partitioner=[XnnpackPartitioner()]).to_executorch()
    (folder / "model.pte").write_bytes(lowered.buffer)
    (folder / f"{KEY}.json").write_text(json.dumps(facts, indent=2), encoding="utf-8")


def run_onnx(folder: Path) -> Callable:
    import onnxruntime

    session = onnxruntime.InferenceSession(folder / "model.onnx")
    return lambda crops: session.run(["landmarks"], {"crops": crops.numpy()})[0]


def run_torch(folder: Path) -> Callable:
    module = torch.export.load(folder / "model.pt2").module()
    return lambda crops: module(crops=crops)["landmarks"].numpy()


def run_openvino(folder: Path) -> Callable:
    import openvino

    hint = {"INFERENCE_PRECISION_HINT": "f32"}
    compiled = openvino.Core().compile_model(folder / "model.xml", "CPU", hint)
    return lambda crops: compiled({"crops": crops.numpy()})["landmarks"]


def run_executorch(folder: Path) -> Callable:
    from executorch.runtime import Runtime

    method = Runtime.get().load_program(folder / "model.pte").load_method("forward")
    return lambda crops: method.execute([crops])[0].numpy()


FORMATS = {"onnx": (write_onnx, run_onnx), "torch": (write_torch, run_torch)}
FORMATS |= {"openvino": (write_openvino, run_openvino), "executorch": (write_executorch, run_executorch)}


@torch.no_grad()
def export(
    checkpoint: str,
    out: Path,
    form: str = "onnx",
    half: bool = False,
    topology: str | None = None,
    int8: Path | None = None,
    detector: Path | None = None,
) -> float:
    """Writes a checkpoint as `form` into the folder `out`, which appears when it is whole.

    Args:
        checkpoint: directory or id on the Hub.
        form: of `FORMATS`.
        half: weights in float16 in the file; they are computed with in float32.
        topology: which landmarks, of a network with several sets.
        int8: folder of photos of faces, for a trunk in 8-bit integers.
        detector: YuNet's file, to copy beside an ONNX network; by default the Hub's, if it can be reached.

    Returns:
        The largest difference from PyTorch's landmarks in pixels of the crop, on batches of 1 and 3 random crops; with
        `int8` the mean distance, on the faces of its photos.

    Raises:
        ValueError: if there is no such checkpoint or topology, `out` exists, a package of the format is missing,
            `int8` has too few faces, `detector` is not YuNet's file, or the exported network gives other landmarks.
    """
    if out.exists():
        raise ValueError(f"OUT must not exist yet, but got {out}")
    if (half or int8 is not None) and form not in ("onnx", "openvino"):
        raise ValueError(f"--half and --int8 must be of onnx or openvino, but got {form}")
    pipeline = load_pipeline(checkpoint, "cpu")
    topology = pipeline.model.config.default_topology if topology is None else topology
    facts, network = facts_of(pipeline, topology), CropsToLandmarks(pipeline, topology)
    if detector is not None:
        YuNet(str(detector))  # raises if it is none
    calibration = None if int8 is None else calibration_crops(pipeline, int8)
    program = trace(network, facts["image_size"], form)
    tolerance = HALF_TOLERANCE if half else TOLERANCES[form]
    tolerance = tolerance if int8 is None else INT8_TOLERANCE * facts["image_size"]
    out.absolute().parent.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(dir=out.absolute().parent, prefix=".export-") as temporary:
        folder = Path(temporary, "whole")
        folder.mkdir()
        run = write_folder(program, facts, form, half, folder, calibration, detector)
        difference = compare(network, run, facts["image_size"], calibration)
        if not difference <= tolerance:
            raise ValueError(f"{form} must differ from PyTorch by at most {tolerance} px, but got {difference:.4f} px")
        folder.rename(out)
    return difference


def trace(network: CropsToLandmarks, size: int, form: str) -> torch.export.ExportedProgram:
    """The network for any batch; for ExecuTorch one of at most `EXECUTORCH_BATCH`."""
    batch = torch.export.Dim.DYNAMIC
    if form == "executorch":
        batch = torch.export.Dim("batch", min=1, max=EXECUTORCH_BATCH)
        network = network.to(memory_format=torch.contiguous_format)  # XNNPACK refuses channels-last weights
    return torch.export.export(network, (), {"crops": example(size)}, dynamic_shapes={"crops": {0: batch}})


def write_folder(program, facts: dict, form: str, half: bool, folder: Path, calibration, detector) -> Callable:
    """Writes the network and what belongs to it; returns the network, from crops to landmarks.

    Raises:
        ValueError: if a package of the format is missing.
    """
    write, run = FORMATS[form]
    try:
        write(program, facts, half, folder, calibration)
        if form == "onnx":
            add_detector(folder, detector)
        return run(folder)
    except ImportError as error:
        extra = EXTRAS.get(form, "export")
        raise ValueError(f"--format {form} needs pip install '.[{extra}]', but got: {error}") from None


def compare(network: CropsToLandmarks, run: Callable, size: int, calibration: np.ndarray | None) -> float:
    """The largest difference of landmarks in pixels of the crop, at batches that the program was not traced with; with
    `calibration`, the mean distance on these crops."""
    if calibration is not None:
        batches = [torch.from_numpy(batch) for batch in np.array_split(calibration, math.ceil(len(calibration) / 16))]
        moves = np.concatenate([run(crops) - network(crops)["landmarks"].numpy() for crops in batches])
        return float(np.linalg.norm(moves, axis=-1).mean() * size)
    differences = []
    for batch in (1, 3):
        crops = example(size, batch)
        differences.append(np.abs(run(crops) - network(crops)["landmarks"].numpy()).max() * size)
    return float(max(differences))


def add_detector(folder: Path, given: Path | None):
    """YuNet beside the network, for photos of any size: the file `given`, or the Hub's if it can be had."""
    import onnx

    try:
        file = given or download_yunet()
    except Exception:  # the Hub's client raises nearly anything
        return
    model = onnx.load(file)
    for name, axis in (("height", 2), ("width", 3)):
        model.graph.input[0].type.tensor_type.shape.dim[axis].dim_param = name
    for output in model.graph.output:
        output.type.tensor_type.shape.dim[1].dim_param = f"cells_{output.name}"
    del model.graph.value_info[:]  # shapes for one size
    onnx.save(model, folder / DETECTOR)


def print_scores(arguments: argparse.Namespace):
    pipeline = load_pipeline(arguments.model, "cpu")
    network, run = CropsToLandmarks(pipeline, arguments.topology), FORMATS[arguments.format][1](arguments.out)
    runs = {"PyTorch": lambda crops: network(crops)["landmarks"].numpy(), arguments.format: run}
    for name, run_crops in runs.items():
        with torch.no_grad():
            nme = nme_of(pipeline, lambda crops: run_crops(torch.from_numpy(crops)), *arguments.score)  # noqa: B023
        print(f"{name}: NME {100 * nme:.3f}%")


def make_parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(prog="python -m modeling_mtld.export", description=__doc__.splitlines()[0])
    parser.add_argument("out", type=Path, metavar="OUT", help="folder to write; it must not exist yet")
    parser.add_argument(
        "--model", default=str(CHECKPOINT), metavar="DIR_OR_ID", help="checkpoint (default: %(default)s)"
    )
    parser.add_argument("--format", choices=FORMATS, default="onnx", help="(default: %(default)s)")
    parser.add_argument("--half", action="store_true", help="weights in float16: half the size")
    parser.add_argument("--topology", metavar="NAME", help="which landmarks, where a checkpoint has several sets")
    parser.add_argument(
        "--int8",
        type=Path,
        metavar="PHOTOS",
        help="the trunk in 8-bit integers: smaller and faster; this folder of photos of faces sets their ranges",
    )
    parser.add_argument(
        "--detector",
        type=Path,
        metavar="FILE",
        help=f"{YUNET_FILE}, to put beside an ONNX network (default: the Hub's, if it can be reached)",
    )
    parser.add_argument(
        "--score",
        nargs=3,
        metavar=("DATASET", "DATA_DIR", "SPLIT"),
        help="print the NME of PyTorch and of the exported network on this data, such as 300w 300w common",
    )
    return parser


def main(argv: list[str] | None = None) -> int:
    parser = make_parser()
    arguments = parser.parse_args(argv)
    if arguments.half and arguments.int8:
        parser.error("--half and --int8 exclude each other")
    try:
        difference = export(
            arguments.model,
            arguments.out,
            form=arguments.format,
            half=arguments.half,
            topology=arguments.topology,
            int8=arguments.int8,
            detector=arguments.detector,
        )
        if arguments.score:
            print_scores(arguments)
    except (ValueError, OSError) as error:
        print(f"export: {first_line(error)}", file=sys.stderr)
        return 2
    files = ", ".join(f"{path.name} ({path.stat().st_size / 1e6:.1f} MB)" for path in sorted(arguments.out.iterdir()))
    kind = "a mean distance of" if arguments.int8 else "within"
    print(f"{arguments.out} holds {files}; {kind} {difference:.5f} px of the crop from PyTorch's landmarks")
    if arguments.format == "onnx" and not (arguments.out / DETECTOR).exists():
        print(f"{YUNET_FILE} could not be fetched from the Hub: --detector FILE adds it, or give boxes")
    return 0


if __name__ == "__main__":
    sys.exit(main())
