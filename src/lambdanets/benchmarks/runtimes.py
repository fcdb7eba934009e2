"""The runtimes that run a network in inference, and the preparation that each needs."""

import signal
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any, NamedTuple

import torch
from torch import Tensor, nn

from lambdanets.export.formats import FORMATS, INT8_FILE, Run, write_graph
from lambdanets.export.int8 import quantize_graph
from lambdanets.export.portable import portable_copy
from lambdanets.inference.optimize import optimize_for_inference

# Of the last batch norms of residual blocks. With 1, rounding errors grow to 1e-4 of the logits in deep networks.
GAIN = 0.1
CALIBRATION_IMAGES = 2
SMALLEST_VARIANCE = 0.1  # of a channel, in units of the mean over channels


class PreparationTimeoutError(BaseException):
    """A preparation takes too long. Not an `Exception`: compilers catch those and try something else."""


class Runtime(NamedTuple):
    """A way to run a network.

    Args:
        label: in tables.
        description: for the note below a table.
        prepare: given a network in evaluation mode, images of the shape that it will run on, and a folder for files
            that further calls for the same network use again, returns a function of images. It may depend on the
            number of PyTorch's threads.
        is_exact: whether the logits are those of eager PyTorch but for rounding in float32.
    """

    label: str
    description: str
    prepare: Callable[[nn.Module, Tensor, Path], Run]
    is_exact: bool = True


def prepare_eager(model: nn.Module, images: Tensor, folder: Path) -> Run:
    return torch.inference_mode()(model)


def prepare_optimized(model: nn.Module, images: Tensor, folder: Path) -> Run:
    return torch.inference_mode()(optimize_for_inference(model))


def prepare_compiled(model: nn.Module, images: Tensor, folder: Path) -> Run:
    torch.compiler.reset()  # code for other shapes and numbers of threads
    return torch.inference_mode()(optimize_for_inference(model, compile=True))


def prepare_onnx(model: nn.Module, images: Tensor, folder: Path) -> Run:
    return FORMATS["onnx"].read(write_onnx_once(model, images, folder))


def prepare_int8(model: nn.Module, images: Tensor, folder: Path) -> Run:
    file = folder / INT8_FILE
    if not file.exists():
        quantize_graph(write_onnx_once(model, images, folder), file, [images[:CALIBRATION_IMAGES]])
    return FORMATS["onnx"].read(file)


def write_onnx_once(model: nn.Module, images: Tensor, folder: Path) -> Path:
    """Return the file of job=export in a folder, and write it if it is not there."""
    file = folder / FORMATS["onnx"].file
    if not file.exists():
        pair = images[:2] if len(images) > 1 else torch.cat([images, images])
        write_graph("onnx", portable_copy(model, pair, runtime=FORMATS["onnx"].runtime), pair, file)
    return file


RUNTIMES = {
    "eager": Runtime("eager", "PyTorch as it is", prepare_eager),
    "optimized": Runtime("optimized", "`lambdanets.optimize_for_inference`", prepare_optimized),
    "compiled": Runtime(
        "compiled", "`lambdanets.optimize_for_inference` with `compile=True`, by `torch.compile`", prepare_compiled
    ),
    "onnx": Runtime("ONNX", "the file of `job=export format=onnx` in ONNX Runtime", prepare_onnx),
    "int8": Runtime(
        "INT8", "the file of `job=export format=onnx_int8`, calibrated by random images", prepare_int8, is_exact=False
    ),
}


@torch.no_grad()
def calibrate(model: nn.Module, images: Tensor) -> None:
    """Set the statistics of batch norms by images, and gains of 0 to GAIN; then the model is in evaluation mode.

    With the statistics of new networks the signal vanishes in the depth, and blocks that start as identities would hide
    errors in their layers. All else is in evaluation mode: with drop path, the signal of a later pass may grow without
    limit.
    """
    model.eval()
    norms = [module for module in model.modules() if isinstance(module, nn.BatchNorm2d)]
    momenta = [norm.momentum for norm in norms]
    for norm in norms:
        if norm.affine and not norm.weight.any():
            nn.init.constant_(norm.weight, GAIN)
        norm.reset_running_stats()
        norm.momentum = None  # averages
        norm.train()
    model(images)
    for norm, momentum in zip(norms, momenta, strict=True):
        assert norm.running_var is not None
        # Channels with almost equal values in few positions would amplify rounding errors.
        assert norm.running_var is not None
        norm.running_var.clamp_(min=SMALLEST_VARIANCE * norm.running_var.mean())
        norm.momentum = momentum
        norm.eval()


@torch.inference_mode()
def logit_difference(model: nn.Module, run: Run, images: Tensor) -> float:
    """Return the largest difference of logits, in units of the network's largest logit."""
    expected = model(images)
    return float((run(images) - expected).abs().max() / expected.abs().max())


@contextmanager
def preparation_limit(seconds: float) -> Iterator[None]:
    """Raise PreparationTimeoutError in the block when the time is over; without effect outside of the main thread."""

    def stop(*_: Any) -> None:
        raise PreparationTimeoutError(f"its preparation took more than {seconds:g} s")

    if threading.current_thread() is not threading.main_thread() or not hasattr(signal, "SIGALRM"):
        yield
        return
    before = signal.signal(signal.SIGALRM, stop)
    signal.setitimer(signal.ITIMER_REAL, seconds)
    try:
        yield
    finally:
        signal.setitimer(signal.ITIMER_REAL, 0)
        signal.signal(signal.SIGALRM, before)
