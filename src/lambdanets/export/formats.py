"""The graph formats of job=export: writing and reading."""

import importlib
import io
import logging
import threading
import warnings
from collections.abc import Callable, Iterator
from contextlib import contextmanager, redirect_stderr, redirect_stdout
from pathlib import Path
from typing import Any, NamedTuple

import torch
from torch import Tensor, nn

from lambdanets.atomic import atomic_open
from lambdanets.errors import UserError
from lambdanets.export.products import Runtime

# Names of the graph's input and output.
INPUT, OUTPUT = "images", "logits"
# The quantized form of format=onnx, see lambdanets.export.int8. It needs images, which FORMATS don't.
INT8, INT8_FILE = "onnx_int8", "model_int8.onnx"
Run = Callable[[Tensor], Tensor]
SILENCE = threading.RLock()  # streams and levels of loggers belong to the whole process


class Format(NamedTuple):
    """A format for whole graphs that take any number of images.

    Args:
        file: name of the file.
        write: writes a network in evaluation mode, given an example of its input, the file, and whether the graph takes
            images of any size.
        read: reads the file as a function of normalized images, (B, C, H, W) → (B, num_classes).
        runtime: that runs the graph; lambda layers are computed in the order that is cheapest there.
    """

    file: str
    write: Callable[[nn.Module, Tensor, Path, bool], None]
    read: Callable[[Path], Run]
    runtime: Runtime = "torch"


def write_onnx(network: nn.Module, images: Tensor, file: Path, dynamic_size: bool) -> None:
    import_package("onnxscript")
    # Given the network itself, the exporter of torch 2.9 fixes the batch of some networks.
    program = torch.onnx.export(
        export_program(network, images, dynamic_size),
        dynamo=True,
        verbose=False,
        input_names=[INPUT],
        output_names=[OUTPUT],
    )
    assert program is not None
    with atomic_open(file) as sink:
        sink.write(program.model_proto.SerializeToString())


def read_onnx(file: Path) -> Run:
    onnxruntime = import_package("onnxruntime")
    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = torch.get_num_threads()
    session = onnxruntime.InferenceSession(str(file), options, providers=onnxruntime.get_available_providers())
    return lambda images: torch.from_numpy(session.run([OUTPUT], {INPUT: images.cpu().numpy()})[0])


def export_program(network: nn.Module, images: Tensor, dynamic_size: bool = False) -> torch.export.ExportedProgram:
    """Trace a network for any number of images, of one size or of any."""
    dimensions: dict[int, Any] = {0: torch.export.Dim("batch")}
    if dynamic_size:
        dimensions |= {2: torch.export.Dim.DYNAMIC, 3: torch.export.Dim.DYNAMIC}
    return torch.export.export(network, (images,), dynamic_shapes=(dimensions,))


def write_torch_export(network: nn.Module, images: Tensor, file: Path, dynamic_size: bool) -> None:
    with atomic_open(file) as sink:
        torch.export.save(export_program(network, images, dynamic_size), sink)


def read_torch_export(file: Path) -> Run:
    graph = torch.export.load(file).module()
    return lambda images: graph(images)


def write_torchscript(network: nn.Module, images: Tensor, file: Path, dynamic_size: bool) -> None:
    # A trace computes sizes from its input wherever the network's code does, whether they may differ or not.
    script = torch.jit.trace(network, (images,), check_trace=False)
    with atomic_open(file) as sink:
        torch.jit.save(script, sink)


def read_torchscript(file: Path) -> Run:
    with silence_exporters():
        graph = torch.jit.load(file, map_location="cpu")
    return lambda images: graph(images)


FORMATS = {
    "onnx": Format("model.onnx", write_onnx, read_onnx, runtime="onnx"),
    "torch_export": Format("model.pt2", write_torch_export, read_torch_export),
    "torchscript": Format("model.ts", write_torchscript, read_torchscript),
}
# Files of graphs in the order in which a folder's model is looked for.
GRAPH_FILES = (*(known.file for known in FORMATS.values()), INT8_FILE)


def write_graph(name: str, network: nn.Module, images: Tensor, file: Path, *, dynamic_size: bool = False) -> None:
    """Write a network in one of FORMATS, as a whole file or none.

    Args:
        name: a key of FORMATS.
        network: in evaluation mode, of PyTorch's own operators.
        images: (B, C, H, W) with B ≥ 2, an example of its input.
        file: path of the file.
        dynamic_size: write a graph for images of any size.

    Raises:
        UserError: a package is missing, or the exporter can't translate the network.
    """
    try:
        with torch.no_grad(), silence_exporters():
            FORMATS[name].write(network, images, file, dynamic_size)
    except UserError:
        raise
    except Exception as error:
        reason = " ".join(str(error).split())[:300]
        advice = (
            "Leave out job.dynamic_size=true, or choose another format" if dynamic_size else "Choose another format"
        )
        raise UserError(
            f"The network can't be exported with format={name}: {reason} {advice}; format=safetensors works for all "
            "networks."
        ) from error


def import_package(package: str, name: str = "onnx") -> Any:
    """Import a package, or a module of it, that a format needs.

    Args:
        package: the package or module.
        name: the format, for the message.

    Raises:
        UserError: it isn't installed.
    """
    try:
        return importlib.import_module(package)
    except ImportError as error:
        missing = package.partition(".")[0]
        raise UserError(f"format={name} needs {missing}, which is not installed: pip install -e '.[export]'") from error


@contextmanager
def silence_exporters() -> Iterator[None]:
    """Suppress the exporters' warnings and progress messages, in one thread at a time."""
    loggers = [logging.getLogger(name) for name in ("torch.onnx", "torch.export", "onnxscript", "onnx_ir")]
    with SILENCE:
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
