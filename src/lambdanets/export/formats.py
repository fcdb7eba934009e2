"""The formats that job=export writes beside the weights, and how they are read."""

import importlib
import io
import logging
import warnings
from collections.abc import Callable, Iterator
from contextlib import contextmanager, redirect_stderr, redirect_stdout
from pathlib import Path
from typing import Any, NamedTuple

import torch
from torch import Tensor, nn

from lambdanets.atomic import atomic_open
from lambdanets.errors import UserError

# Of the graph's one input and one output.
INPUT, OUTPUT = "images", "logits"
Run = Callable[[Tensor], Tensor]


class Format(NamedTuple):
    """A format for whole graphs, of any number of images of one size.

    Args:
        file: name of its file.
        write: from a network in evaluation mode, an example of its input and a file to that file.
        read: from the file to a function of normalized images, (B, C, H, W) → (B, num_classes).
    """

    file: str
    write: Callable[[nn.Module, Tensor, Path], None]
    read: Callable[[Path], Run]


def write_onnx(network: nn.Module, images: Tensor, file: Path) -> None:
    needs("onnxscript")
    program = torch.onnx.export(
        network,
        (images,),
        dynamo=True,
        verbose=False,
        input_names=[INPUT],
        output_names=[OUTPUT],
        dynamic_shapes=({0: torch.export.Dim("batch")},),
    )
    assert program is not None
    with atomic_open(file) as sink:
        sink.write(program.model_proto.SerializeToString())


def read_onnx(file: Path) -> Run:
    onnxruntime = needs("onnxruntime")
    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = torch.get_num_threads()
    session = onnxruntime.InferenceSession(str(file), options, providers=onnxruntime.get_available_providers())
    return lambda images: torch.from_numpy(session.run([OUTPUT], {INPUT: images.cpu().numpy()})[0])


def write_torch_export(network: nn.Module, images: Tensor, file: Path) -> None:
    program = torch.export.export(network, (images,), dynamic_shapes=({0: torch.export.Dim("batch")},))
    with atomic_open(file) as sink:
        torch.export.save(program, sink)


def read_torch_export(file: Path) -> Run:
    graph = torch.export.load(file).module()
    return lambda images: graph(images)


def write_torchscript(network: nn.Module, images: Tensor, file: Path) -> None:
    script = torch.jit.trace(network, (images,), check_trace=False)
    with atomic_open(file) as sink:
        torch.jit.save(script, sink)


def read_torchscript(file: Path) -> Run:
    with silence():
        graph = torch.jit.load(file, map_location="cpu")
    return lambda images: graph(images)


FORMATS = {
    "onnx": Format("model.onnx", write_onnx, read_onnx),
    "torch_export": Format("model.pt2", write_torch_export, read_torch_export),
    "torchscript": Format("model.ts", write_torchscript, read_torchscript),
}


def write(name: str, network: nn.Module, images: Tensor, file: Path) -> None:
    """Writes a network in one of FORMATS, whole or not at all.

    Args:
        name: of the format.
        network: in evaluation mode, of PyTorch's own operators.
        images: (2, C, H, W) or more, an example of its input.
        file: to write.

    Raises:
        UserError: the packages for it are missing, or the exporter can't translate the network.
    """
    try:
        with torch.no_grad(), silence():
            FORMATS[name].write(network, images, file)
    except UserError:
        raise
    except Exception as error:
        reason = " ".join(str(error).split())[:300]
        raise UserError(
            f"format={name} can't hold this network: {reason} Take another format; safetensors holds every one."
        ) from error


def needs(package: str) -> Any:
    """The imported package. Raises UserError: it isn't installed."""
    try:
        return importlib.import_module(package)
    except ImportError as error:
        raise UserError(f"format=onnx needs {package}, which isn't installed: pip install -e '.[export]'") from error


@contextmanager
def silence() -> Iterator[None]:
    """Without what exporters tell of their steps."""
    loggers = [logging.getLogger(name) for name in ("torch.onnx", "torch.export", "onnxscript", "onnx_ir")]
    levels = [logger.level for logger in loggers]
    for logger in loggers:
        logger.setLevel(logging.ERROR)
    try:
        with warnings.catch_warnings(), redirect_stdout(io.StringIO()), redirect_stderr(io.StringIO()):
            warnings.simplefilter("ignore")
            yield
    finally:
        for logger, level in zip(loggers, levels, strict=True):
            logger.setLevel(level)
