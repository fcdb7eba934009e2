"""Graphs of ONNX Runtime with weights and activations of 8 bits, by its static quantization."""

import logging
import tempfile
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from functools import cache
from pathlib import Path
from pydoc import locate
from typing import Any

import numpy as np
from torch import Tensor, nn

from lambdanets.atomic import atomic_write
from lambdanets.export.formats import INPUT, INT8, import_package, silence_exporters
from lambdanets.mixers import LambdaLayer

# Operators with 8-bit inputs, and those of them whose outputs stay floats: logits, and the projections of mixers.
WEIGHTED_OPERATORS = ("Conv", "Gemm", "MatMul")
QUANTIZED_OPERATORS = (*WEIGHTED_OPERATORS, "Add", "Relu", "Clip", "MaxPool", "AveragePool", "GlobalAveragePool")
FLOAT_OUTPUTS = ("Gemm", "MatMul")
# Key of a node's metadata in which PyTorch's exporter lists the classes of its modules and its operator.
CLASSES = "pkg.torch.onnx.class_hierarchy"


def quantize_graph(float_file: Path, file: Path, images: Iterable[Tensor], *, reduce_range: bool = False) -> None:
    """Quantize a graph of format=onnx: weights to int8 per channel, activations to uint8, in the QDQ format.

    Of a mixer, only convolutions and projections are quantized. Its products of activations with each other and with
    position embeddings stay floats, as its softmax does.

    Args:
        float_file: the graph, with batch norms folded.
        file: path of the quantized graph, which takes the same float images.
        images: batches (B, C, H, W), normalized, at least one; they set the range of each activation.
        reduce_range: use 7 bits for the weights. On x86 processors without VNNI, sums of 8-bit products saturate.

    Raises:
        UserError: a package is missing.
    """
    onnx = import_package("onnx", INT8)
    quantization = import_package("onnxruntime.quantization", INT8)
    shape_inference = import_package("onnxruntime.quantization.shape_inference", INT8)
    layers = find_layer_nodes(onnx.load(float_file))
    with tempfile.TemporaryDirectory() as folder, silence_exporters(), silence_root_logger():
        prepared, quantized = Path(folder, "prepared.onnx"), Path(folder, "quantized.onnx")
        # Constants are folded. Symbolic shape inference isn't needed: PyTorch's exporter writes the shapes.
        shape_inference.quant_pre_process(float_file, prepared, skip_symbolic_shape=True)
        quantization.quantize_static(
            prepared,
            quantized,
            CalibrationImages(images),
            op_types_to_quantize=[*QUANTIZED_OPERATORS],
            # Nodes that ONNX Runtime fuses get new names, and stay floats too.
            nodes_to_exclude=[node.name for node in onnx.load(prepared).graph.node if node.name not in layers],
            per_channel=True,
            reduce_range=reduce_range,
            activation_type=quantization.QuantType.QUInt8,
            weight_type=quantization.QuantType.QInt8,
            calibrate_method=quantization.CalibrationMethod.MinMax,
            extra_options={"OpTypesToExcludeOutputQuantization": [*FLOAT_OUTPUTS]},
        )
        atomic_write(file, quantized.read_bytes())


def find_layer_nodes(model: Any) -> set[str]:
    """Return the names of an ONNX graph's nodes outside of mixers, and of the convolutions and projections in them."""
    names = set()
    for node in model.graph.node:
        hierarchy = next((entry.value for entry in node.metadata_props if entry.key == CLASSES), "")
        classes = [name.strip(" '[]") for name in hierarchy.split(",")]
        if len(classes) < 2:
            continue
        owner, operator = locate(classes[-2]), classes[-1]
        in_mixer = any(is_of_mixer(name) for name in classes)
        # The projection of a lambda layer is a call of linear(), those of other mixers are layers of PyTorch.
        is_layer = isinstance(owner, type) and issubclass(owner, nn.Conv2d | nn.Linear)
        if not in_mixer or (node.op_type in WEIGHTED_OPERATORS and (is_layer or operator.startswith("aten.linear"))):
            names.add(node.name)
    return names


@cache
def is_of_mixer(name: str) -> bool:
    """Return whether a class, given by its full name, is a mixer or computes the products of one."""
    layer_class = locate(name)
    is_lambda = isinstance(layer_class, type) and issubclass(layer_class, LambdaLayer)  # timm's, and those of users
    return is_lambda or name.startswith(("lambdanets.mixers.", "lambdanets.export.products."))


class CalibrationImages:
    """The inputs of a calibration, as onnxruntime reads them.

    Args:
        images: batches (B, C, H, W).
    """

    def __init__(self, images: Iterable[Tensor]) -> None:
        self.batches = iter(images)

    def get_next(self) -> dict[str, np.ndarray] | None:
        """Return the next batch by the name of the graph's input, or None after the last one."""
        batch = next(self.batches, None)
        return None if batch is None else {INPUT: batch.cpu().numpy()}


@contextmanager
def silence_root_logger() -> Iterator[None]:
    """Suppress warnings of onnxruntime's quantization, which logs to the root logger."""
    logging.disable(logging.WARNING)
    try:
        yield
    finally:
        logging.disable(logging.NOTSET)
