"""A checkpoint's network in PyTorch and in the runtimes that `modeling_mtld.export` writes for, as calls to time."""

from collections.abc import Callable, Sequence
from functools import partial
from pathlib import Path

import numpy as np
import torch

from .backbone_mtld import build_backbone
from .modeling_mtld import MTLDForFacialLandmarkDetection

TRUNK = "timm's trunk in PyTorch, float32"
PRECISIONS = {"float32": "f32", "bfloat16": "bf16"}  # torch's and OpenVINO's names
INSTALL = "pip install '.[export]'"


def torch_calls(
    model: MTLDForFacialLandmarkDetection,
    batch_size: int,
    device: str,
    precisions: Sequence[str] = ("float32",),
    compiled: bool = False,
) -> dict[str, Callable]:
    """The bare trunk as timm makes it, and the network in each of `PRECISIONS`; with `compiled` also by
    torch.compile. `model` is cast to the last precision."""
    config = model.config
    pixel_values = torch.randn(batch_size, 3, config.image_size, config.image_size, device=device)
    trunk = build_backbone(config.backbone_config, config.timm_kwargs)._backbone.eval().to(device)
    calls = {TRUNK: partial(trunk, pixel_values)}
    for precision in precisions:
        network = type(model)(config).eval().to(device)
        network.load_state_dict(model.state_dict())
        network = network.to(getattr(torch, precision))
        calls[f"network in PyTorch, {precision}"] = partial(network, pixel_values)
        if compiled:
            calls[f"network in PyTorch, {precision}, compiled"] = partial(torch.compile(network), pixel_values)
    return calls


def exported_calls(
    folder: Path, batch_size: int, threads: int, precisions: Sequence[str] = ("float32",)
) -> dict[str, Callable]:
    """The networks in a folder that `modeling_mtld.export` wrote, on the CPU.

    Args:
        precisions: in which OpenVINO computes; ONNX Runtime does as the file says.

    Raises:
        ValueError: if there is none, or its runtime is not installed.
    """
    try:
        if (folder / "model.onnx").is_file():
            return {f"{folder.name} in ONNX Runtime": _onnx_call(folder / "model.onnx", batch_size, threads)}
        if (folder / "model.xml").is_file():
            compiled = {precision: _openvino_call(folder, batch_size, threads, precision) for precision in precisions}
            return {f"{folder.name} in OpenVINO, {precision}": call for precision, call in compiled.items()}
    except ImportError as error:
        raise ValueError(f"{folder} needs {INSTALL}, but got: {error}") from None
    raise ValueError(f"--exported must be folders with a model.onnx or model.xml of export, but got {folder}")


def _crops(shape, batch_size: int) -> np.ndarray:
    return np.random.default_rng(0).integers(0, 256, (batch_size, *shape), dtype=np.uint8)


def _onnx_call(file: Path, batch_size: int, threads: int) -> Callable:
    import onnxruntime

    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = threads
    options.add_session_config_entry("session.intra_op.allow_spinning", "0")  # which would slow whose turn is next
    session = onnxruntime.InferenceSession(file, options)
    return partial(session.run, ["landmarks"], {"crops": _crops(session.get_inputs()[0].shape[1:], batch_size)})


def _openvino_call(folder: Path, batch_size: int, threads: int, precision: str) -> Callable:
    import openvino

    hints = {"INFERENCE_NUM_THREADS": threads, "PERFORMANCE_HINT": "LATENCY"}
    hints["INFERENCE_PRECISION_HINT"] = PRECISIONS[precision]
    compiled = openvino.Core().compile_model(folder / "model.xml", "CPU", hints)
    shape = [length.get_length() for length in list(compiled.input(0).partial_shape)[1:]]
    return partial(compiled.create_infer_request().infer, {"crops": _crops(shape, batch_size)})
