"""Closed forms of the cost of layers that relate positions: time as in Bello (2021), Table 2, space as in Table 4.

b images, n positions and m positions of the context, h heads, k key depth, d channels, v = d / h, u intra-depth, l
layers. In patchwise attention, h are the groups and k the channels that weights are computed from. Multiply-adds are
those of the products that relate positions; projections, which all layers have, don't count. Elements are those of
attention maps, or of a lambda layer's embeddings expanded to pairs of positions as in the paper, without the b·n·k·v of
the lambdas, which Table 2 adds; our layers don't expand the embeddings.
"""

from collections.abc import Callable
from dataclasses import dataclass

GIB = 2**30
FLOAT, BFLOAT16 = 4, 2  # bytes


@dataclass(frozen=True)
class LayerSizes:
    """Sizes of one layer, named as above; `size` is the (H, W) of its map, `scope` a context's rows and columns."""

    size: tuple[int, int]
    channels: int
    heads: int
    key_depth: int
    intra_depth: int = 1
    scope: tuple[int, int] | None = None

    @property
    def positions(self) -> int:
        return self.size[0] * self.size[1]

    @property
    def context(self) -> int:
        return self.positions if self.scope is None else self.scope[0] * self.scope[1]


@dataclass(frozen=True)
class Form:
    """Cost of a kind of layer: formulas for print, and as functions of one layer and a batch b."""

    name: str
    time: str
    space: str
    multiply_adds: Callable[[LayerSizes, int], float]
    elements: Callable[[LayerSizes, int], float]
    shared: bool = False  # one set of embeddings for all layers of a feature size


def attention_time(layer: LayerSizes, batch: int, context: float) -> float:
    return batch * layer.positions * context * (layer.heads * layer.key_depth + layer.channels)


def lambda_time(layer: LayerSizes, batch: int) -> float:
    lambdas = layer.key_depth * layer.channels / layer.heads
    return batch * layer.positions * layer.context * layer.intra_depth * lambdas


def embedding_elements(layer: LayerSizes, batch: int) -> float:
    return layer.key_depth * layer.intra_depth * layer.positions * layer.context


FORMS = {
    "attention": Form(
        "self-attention",
        "Θ(l·b·n²·(h·k + d))",
        "Θ(l·b·h·n²)",
        lambda layer, batch: attention_time(layer, batch, layer.positions),
        lambda layer, batch: batch * layer.heads * layer.positions**2,
    ),
    "axial": Form(
        "axial self-attention",
        "Θ(l·b·n·√n·(h·k + d))",
        "Θ(l·b·h·n·√n)",
        lambda layer, batch: attention_time(layer, batch, sum(layer.size)),
        lambda layer, batch: batch * layer.heads * layer.positions * sum(layer.size),
    ),
    "local": Form(
        "local self-attention",
        "Θ(l·b·n·m·(h·k + d))",
        "Θ(l·b·h·n·m)",
        lambda layer, batch: attention_time(layer, batch, layer.context),
        lambda layer, batch: batch * layer.heads * layer.positions * layer.context,
    ),
    "patchwise": Form(
        "patchwise self-attention",
        "Θ(l·b·n·m·(k² + h·k + d))",
        "Θ(l·b·h·n·m)",
        lambda layer, batch: (
            attention_time(layer, batch, layer.context) + batch * layer.positions * layer.context * layer.key_depth**2
        ),
        lambda layer, batch: batch * layer.heads * layer.positions * layer.context,
    ),
    "linear": Form(
        "linear attention",
        "Θ(l·b·n·k·d)",
        "Θ(l·b·k·d)",
        lambda layer, batch: 2 * batch * layer.positions * layer.key_depth * layer.channels,
        lambda layer, batch: batch * layer.key_depth * layer.channels,
    ),
    "lambda": Form("lambda layer", "Θ(l·b·n²·k·u·v)", "Θ(l·k·u·n²)", lambda_time, embedding_elements),
    "shared": Form(
        "lambda layer, shared embeddings", "Θ(l·b·n·m·k·u·v)", "Θ(k·u·n·m)", lambda_time, embedding_elements, True
    ),
    "convolution": Form("lambda convolution", "Θ(l·b·n·m·k·u·v)", "Θ(l·k·u·n·m)", lambda_time, embedding_elements),
}


def total_multiply_adds(kind: str, layers: list[LayerSizes], batch: int = 1) -> float:
    """Return the multiply-adds of all layers in one forward pass of a batch."""
    return sum(FORMS[kind].multiply_adds(layer, batch) for layer in layers)


def total_memory_gib(kind: str, layers: list[LayerSizes], batch: int) -> float:
    """Return the GiB of all layers' attention maps or embeddings in float32, as in Table 4."""
    form = FORMS[kind]
    if form.shared:
        layers = list({layer.size: layer for layer in layers}.values())
    return FLOAT * sum(form.elements(layer, batch) for layer in layers) / GIB


@dataclass(frozen=True)
class AttentionMaps:
    """Attention maps of one self-attention layer, the example of the paper's introduction.

    Args:
        source: where they are mentioned.
        batch: images.
        printed_gb: memory as printed, in GB.
        side: of the square images, each of whose pixels is a position.
        heads: number of heads.
    """

    source: str
    batch: int
    printed_gb: int
    side: int = 64
    heads: int = 8

    @property
    def entries(self) -> int:
        """Number of entries: b·h·n²."""
        sizes = LayerSizes((self.side, self.side), self.heads, self.heads, 1)
        return int(FORMS["attention"].elements(sizes, self.batch))


INTRODUCTION_EXAMPLES = (AttentionMaps("final version", 128, 64), AttentionMaps("submission", 256, 32))
