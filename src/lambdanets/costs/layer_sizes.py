"""Which closed form describes a network's layers."""

from collections.abc import Iterator, Sequence

from torch import nn

from lambdanets.costs.closed_forms import LayerSizes
from lambdanets.mixers import (
    Attention,
    Augmented,
    Axial,
    DoubleAttention,
    EfficientAttention,
    LambdaLayer,
    LocalAttention,
    LocalRelation,
    PatchwiseAttention,
)
from lambdanets.models import CompositeNetwork, ResNet
from lambdanets.models.resnet import EXPANSION, Bottleneck


def mixing_layers(model: nn.Module, image_size: tuple[int, int]) -> tuple[str, list[LayerSizes]] | None:
    """The kind of the layers that relate positions, a key of FORMS, and their sizes; None for a network without any.

    As in the paper's Table 4, a block with a stride counts at the size of its output.
    """
    if isinstance(model, CompositeNetwork):
        model = model.skeleton
    if not isinstance(model, ResNet):
        return None
    found: list[tuple[str, LayerSizes]] = []
    for stage, stride, channels in zip(model.stages, model.feature_strides, model.feature_channels, strict=True):
        side = -(-image_size[0] // stride)
        for block in stage.children():
            assert isinstance(block, Bottleneck)
            found += [*block_layers(block, side, channels // EXPANSION)]
    if not found:
        return None
    tables = [module.table for module in model.modules() if isinstance(module, LambdaLayer)]
    shared = len({id(table) for table in tables}) < len(tables) and tables[0] is not None
    return "shared" if shared else found[0][0], [layer for _, layer in found]


def block_layers(block: Bottleneck, side: int, channels: int) -> Iterator[tuple[str, LayerSizes]]:
    match block.mixer:
        case Attention() as mixer:
            yield "attention", LayerSizes(side, channels, mixer.heads, mixer.head_depth)
        case Augmented() as mixer:
            yield "attention", LayerSizes(side, mixer.heads * mixer.depths[2], mixer.heads, mixer.depths[0])
        case Axial() as mixer:
            yield "axial", LayerSizes(side, channels, mixer.heads, channels // mixer.heads)
        case LocalAttention() as mixer:
            yield "local", LayerSizes(side, channels, mixer.heads, mixer.head_depth, scope=mixer.scope)
        case LocalRelation() as mixer:
            yield "local", LayerSizes(side, channels, mixer.groups, 1, scope=mixer.scope)
        case PatchwiseAttention() as mixer:
            yield "local", LayerSizes(side, channels, mixer.groups, 1, scope=mixer.scope)
        case LambdaLayer() as mixer if mixer.table is not None:
            scope = None if mixer.scope == "global" else min(side, longest_side(mixer.scope))
            kind = "lambda" if scope is None else "convolution"
            yield kind, LayerSizes(side, channels, mixer.heads, mixer.key_depth, mixer.intra_depth, scope)
    match block.gate:
        case DoubleAttention() as gate:
            narrow = gate.out.in_channels
            yield "linear", LayerSizes(side, narrow, 1, narrow)
        case EfficientAttention() as gate:
            narrow = gate.out.in_channels
            yield "linear", LayerSizes(side, narrow, gate.heads, narrow // gate.heads)


def longest_side(scope: int | str | Sequence[int]) -> int:
    return scope if isinstance(scope, int) else max(int(side) for side in scope)
