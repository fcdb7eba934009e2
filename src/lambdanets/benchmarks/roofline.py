"""The least time that a device needs for a layer: its arithmetic or its traffic with memory, whichever takes longer."""

from dataclasses import dataclass

import torch
from torch import nn
from torch.utils.flop_counter import FlopCounterMode

from lambdanets.benchmarks.measure import Setting, measure_bandwidth, measure_matrix_rate
from lambdanets.mixers import LambdaLayer
from lambdanets.ops.kernel import visible_pairs


@dataclass(frozen=True)
class Roofline:
    """Measured limits of a device.

    Args:
        matrix_rate: multiply-adds per second of a large matrix product.
        bandwidth: bytes per second of a large copy, read and written.
        element_bytes: bytes of an element of a map.
    """

    matrix_rate: float
    bandwidth: float
    element_bytes: int

    @staticmethod
    def measure(setting: Setting) -> "Roofline":
        """Measure both limits with the precision of the setting."""
        size = 2 if setting.precision == "bfloat16" else 4
        return Roofline(measure_matrix_rate(setting), measure_bandwidth(setting), size)

    def floor(self, multiply_adds: float, map_elements: float, *, training: bool) -> float:
        """Return the least seconds of a layer.

        Args:
            multiply_adds: of a forward pass; the backward pass has twice as many.
            map_elements: elements of the layer's input, which has the size of its output. The forward pass reads one
                and writes the other; the backward pass reads the input and the output's gradient, and writes the
                input's.
            training: include the backward pass.
        """
        passes, maps = (3, 5) if training else (1, 2)
        traffic = maps * map_elements * self.element_bytes
        return max(passes * multiply_adds / self.matrix_rate, traffic / self.bandwidth)


def lambda_multiply_adds(layer: LambdaLayer, batch: int, side: int) -> float:
    """Count the multiply-adds of a lambda layer by the cheaper direct order, without pairs outside of map or scope.

    Scores first: per query and position, h·(k + v) for all heads; lambdas first: k·v for all queries.

    Args:
        layer: its context is its input.
        batch: images.
        side: height and width of the map.
    """
    assert layer.table is not None
    pairs = visible_pairs(side, side, layer.table.shape[2]) * visible_pairs(side, side, layer.table.shape[3])
    heads, key_depth, value_depth = layer.heads, layer.key_depth, layer.value_depth
    position = pairs * layer.intra_depth * min(heads * (key_depth + value_depth), key_depth * value_depth)
    applied = side**2 * key_depth * value_depth * (heads + layer.intra_depth)
    return batch * (side**2 * layer.qkv.weight.numel() + position + applied)


def count_multiply_adds(module: nn.Module, x: torch.Tensor) -> float:
    """Count the multiply-adds of a module's forward pass, by the operators that it runs."""
    with torch.no_grad(), FlopCounterMode(display=False) as counter:
        module(x)
    return counter.get_total_flops() / 2
