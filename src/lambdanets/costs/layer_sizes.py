"""Sizes of a network's layers for the closed forms."""

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
from lambdanets.models import CompositeNetwork, MobileNet, ResNet
from lambdanets.models.mobilenet import InvertedBottleneck
from lambdanets.models.resnet import EXPANSION, Bottleneck


def mixing_layers(model: nn.Module, image_size: tuple[int, int]) -> tuple[str, list[LayerSizes]] | None:
    """Return the kind (a key of FORMS) and the sizes of the layers that relate positions; None without such layers.

    As in the paper's Table 4, the size of a block with a stride is that of its output.
    """
    if isinstance(model, CompositeNetwork):
        model = model.skeleton
    layers: list[tuple[str, LayerSizes]] = []
    if isinstance(model, ResNet):
        for stage, stride, channels in zip(model.stages, model.feature_strides, model.feature_channels, strict=True):
            size = -(-image_size[0] // stride), -(-image_size[1] // stride)
            for block in stage.children():
                assert isinstance(block, Bottleneck)
                layers += [*block_layers(block, size, channels // EXPANSION)]
    elif isinstance(model, MobileNet):
        for number, inverted in model.mixed_blocks().items():
            layers += [*block_layers(inverted, model.feature_sizes[number], inverted.norm.num_features)]
    if not layers:
        return None
    tables = [module.table for module in model.modules() if isinstance(module, LambdaLayer)]
    shared = len({id(table) for table in tables}) < len(tables) and tables[0] is not None
    return "shared" if shared else layers[0][0], [sizes for _, sizes in layers]


def block_layers(
    block: Bottleneck | InvertedBottleneck, size: tuple[int, int], channels: int
) -> Iterator[tuple[str, LayerSizes]]:
    """Yield kind and sizes of a block's mixer and gate, those that relate positions."""
    match block.mixer:
        case Attention() as mixer:
            yield "attention", LayerSizes(size, channels, mixer.heads, mixer.head_depth)
        case Augmented() as mixer:
            yield "attention", LayerSizes(size, mixer.heads * mixer.depths[2], mixer.heads, mixer.depths[0])
        case Axial() as mixer:
            yield "axial", LayerSizes(size, channels, mixer.heads, channels // mixer.heads)
        case LocalAttention() as mixer:
            yield "local", LayerSizes(size, channels, mixer.heads, mixer.head_depth, scope=(mixer.scope, mixer.scope))
        case LocalRelation() as mixer:
            yield "local", LayerSizes(size, channels, mixer.groups, 1, scope=(mixer.scope, mixer.scope))
        case PatchwiseAttention() as mixer:
            square = mixer.scope, mixer.scope
            yield "patchwise", LayerSizes(size, channels, mixer.groups, mixer.phi.out_channels, scope=square)
        case LambdaLayer() as mixer if mixer.table is not None:
            scope = None if mixer.scope == "global" else clip_scope(mixer.scope, size)
            kind = "lambda" if scope is None else "convolution"
            yield kind, LayerSizes(size, channels, mixer.heads, mixer.key_depth, mixer.intra_depth, scope)
    match block.gate:
        case DoubleAttention() as gate:
            inner_channels = gate.out.in_channels
            yield "linear", LayerSizes(size, inner_channels, 1, inner_channels)
        case EfficientAttention() as gate:
            inner_channels = gate.out.in_channels
            yield "linear", LayerSizes(size, inner_channels, gate.heads, inner_channels // gate.heads)


def clip_scope(scope: int | str | Sequence[int], size: tuple[int, int]) -> tuple[int, int]:
    """Return the rows and columns of a scope, one number or two, at most those of the map."""
    rows, columns = (scope, scope) if isinstance(scope, int) else map(int, scope)
    return min(rows, size[0]), min(columns, size[1])
