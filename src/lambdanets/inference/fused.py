"""Layers for inference on a CPU: fewer passes over memory, and weights in the order that oneDNN reads.

oneDNN computes a convolution together with the activation or the sum behind it. PyTorch has operators for that, which
`torch.compile` puts into its graphs; the layers here call the same ones, without a compiler.
"""

from typing import Any

import torch
from torch import Tensor, nn
from torchvision.ops import SqueezeExcitation

from lambdanets.inference.block_ends import pool, scale_and_add
from lambdanets.inference.convolution import PackedConv
from lambdanets.inference.folding import is_foldable, is_plain_conv, keeps, norm_to_affine
from lambdanets.mixers import LambdaLayer
from lambdanets.mixers.interface import lay_out
from lambdanets.models.resnet import Bottleneck
from lambdanets.ops import kernel

# Name of an activation in oneDNN, and its numbers.
ACTIVATIONS: dict[type[nn.Module], tuple[str, list[float]]] = {
    nn.Identity: ("none", []),
    nn.ReLU: ("relu", []),
    nn.ReLU6: ("hardtanh", [0.0, 6.0]),
    nn.SiLU: ("swish", []),
    nn.Hardswish: ("hardswish", []),
}


class FusedConv(nn.Module):
    """A convolution, optionally the sum with another map, and an activation: (B, C, H, W) → (B, out, H', W').

    Maps are channels last.

    Args:
        conv: padded with zeros.
        act: a key of ACTIVATIONS; behind a sum only an identity or nn.ReLU.
    """

    def __init__(self, conv: nn.Conv2d, act: type[nn.Module] = nn.Identity) -> None:
        super().__init__()
        self.weight, self.bias = conv.weight, conv.bias
        self.sizes: tuple[Any, ...] = (conv.padding, conv.stride, conv.dilation, conv.groups)
        self.act, self.numbers = ACTIVATIONS[act]
        self.packed: tuple[torch.Size, Tensor] | None = None

    def forward(self, x: Tensor, other: Tensor | None = None) -> Tensor:
        x = lay_out(x, torch.channels_last)
        weight = self.pack_weight(x.shape)
        if other is None:
            return torch.ops.mkldnn._convolution_pointwise(
                x, weight, self.bias, *self.sizes, self.act, self.numbers, ""
            )
        act = None if self.act == "none" else self.act
        return torch.ops.mkldnn._convolution_pointwise.binary(
            x, other, weight, self.bias, *self.sizes, "add", 1.0, act, self.numbers, ""
        )

    def pack_weight(self, shape: torch.Size) -> Tensor:
        """Return the weight as oneDNN reads it for inputs of this shape; with the order for another it can be slow."""
        if self.packed is None or self.packed[0] != shape:
            weight = torch.ops.mkldnn._reorder_convolution_weight(self.weight, *self.sizes, shape)
            self.packed = shape, weight
        return self.packed[1]

    def __getstate__(self) -> dict[str, Any]:
        return self.__dict__ | {"packed": None}  # oneDNN's tensors can't be copied or stored


class FusedSqueezeExcitation(nn.Module):
    """Squeeze-and-excitation whose hidden layers are products of vectors: (B, C, H, W) → (B, C, H, W).

    Args:
        gate: the same as separate layers.
    """

    def __init__(self, gate: SqueezeExcitation) -> None:
        super().__init__()
        self.fc1, self.fc2 = gate.fc1, gate.fc2
        self.activation, self.scale_activation = gate.activation, gate.scale_activation

    def factors(self, x: Tensor) -> Tensor:
        """Compute the factor of each channel: (B, C, 1, 1)."""
        y = x.permute(0, 2, 3, 1).mean((1, 2))
        y = self.activation(nn.functional.linear(y, self.fc1.weight.flatten(1), self.fc1.bias))
        y = nn.functional.linear(y, self.fc2.weight.flatten(1), self.fc2.bias)
        return self.scale_activation(y)[:, :, None, None]

    def forward(self, x: Tensor) -> Tensor:
        return x * self.factors(x)


class FusedLambda(nn.Module):
    """A lambda layer, the batch norm behind it and optionally the ReLU: (B, C, H, W) → (B, C, ⌈H / s⌉, ⌈W / s⌉).

    Args:
        layer: see `is_fusible`.
        norm: the batch norm behind it.
        relu: whether a ReLU follows.
    """

    scale: Tensor
    shift: Tensor

    def __init__(self, layer: LambdaLayer, norm: nn.Module, *, relu: bool) -> None:
        super().__init__()
        self.layer = layer
        self.qkv = fuse_projection(layer.qkv)
        self.relu = relu
        for name, factor in zip(("scale", "shift"), norm_to_affine(norm), strict=True):
            self.register_buffer(name, factor, persistent=False)

    @staticmethod
    def is_fusible(layer: LambdaLayer, norm: nn.Module) -> bool:
        """Return whether all positions of the layer's input are queries that see it all, and the norms are fixed."""
        norms = (layer.query_norm, layer.value_norm)
        folded = all(isinstance(norm, nn.Identity) for norm in norms)
        usual = keeps(layer, LambdaLayer, "forward", "project", "split_heads", "mix", "fit_table")
        return layer.query_stride == 1 and not layer.causal and folded and usual and is_foldable(norm)

    def forward(self, x: Tensor) -> Tensor:
        layer = self.layer
        query, value, key = layer.split_heads(*self.qkv(x).split(layer.sections, 1))
        relu = self.relu and isinstance(layer.pool, nn.Identity)  # otherwise it follows the pooling
        table = layer.fit_table(query)
        method = None if table is None else layer.choose_method(x, x)
        if table is not None and method == "kernel" and layer.dilation == 1:
            content = layer.content_lambda(value, key)
            y = kernel.infer(query, value, table, content, self.scale, self.shift, relu)
        else:
            y = layer.mix(query, value, key, method)
            channels = y.shape[3:]
            y = torch.addcmul(self.shift.view(channels), y, self.scale.view(channels))
            y = y.relu_() if relu else y
        return pool(layer.pool, y.flatten(3).contiguous(), relu=self.relu and not relu)


class FusedBottleneck(nn.Module):
    """A ResNet's block, see `Bottleneck`: (B, in_channels, H, W) → (B, 4 · channels, ⌈H / stride⌉, ⌈W / stride⌉).

    Args:
        block: see `is_fusible`.
    """

    def __init__(self, block: Bottleneck) -> None:
        super().__init__()
        self.conv1, self.act1 = fuse_conv(block.conv1, block.act)
        self.mixer, self.norm2, self.act2 = fuse_mixer(block.mixer, block.norm2, block.act)
        self.gate, self.shortcut, self.act = block.gate, block.shortcut, block.act
        self.relu = isinstance(block.act, nn.ReLU)
        self.conv3, _ = fuse_conv(block.conv3, nn.ReLU() if self.relu and self.is_plain else nn.Identity())

    @staticmethod
    def is_fusible(block: Bottleneck) -> bool:
        """Return whether a block computes what its class does, and its outer convolutions have taken their norms."""
        folded = all(isinstance(norm, nn.Identity) for norm in (block.norm1, block.norm3))
        return folded and keeps(block, Bottleneck, "forward")

    @property
    def is_plain(self) -> bool:
        """Return whether the sum with the shortcut directly follows the last convolution."""
        return isinstance(self.gate, nn.Identity)

    def forward(self, x: Tensor) -> Tensor:
        y = self.act1(self.conv1(x))
        y = self.act2(self.norm2(lay_out(self.mixer(y), torch.channels_last)))
        shortcut = self.shortcut(x)
        if self.is_plain:
            y = self.conv3(y, shortcut)
            return y if self.relu else self.act(y)
        y = self.conv3(y)
        if isinstance(self.gate, FusedSqueezeExcitation):
            y = scale_and_add(y, self.gate.factors(y), shortcut, relu=self.relu)
            return y if self.relu else self.act(y)
        return self.act(self.gate(y) + shortcut)


def fuse_projection(projection: nn.Linear) -> nn.Module:
    """Make a 1×1 convolution of a projection, as fast as there is."""
    conv = nn.Conv2d(projection.in_features, projection.out_features, 1, bias=projection.bias is not None)
    conv.weight = nn.Parameter(projection.weight.detach()[:, :, None, None], requires_grad=False)
    if projection.bias is not None:
        conv.bias = nn.Parameter(projection.bias.detach(), requires_grad=False)
    return fuse_conv(conv, nn.Identity())[0]


def fuse_conv(conv: nn.Module, act: nn.Module) -> tuple[nn.Module, nn.Module]:
    """Fuse a convolution with the activation behind it.

    Returns:
        The layers that replace both; another module than a zero-padded convolution stays, and so does an activation
        that the convolution can't take.
    """
    if not is_plain_conv(conv) or conv.padding_mode != "zeros" or isinstance(conv.padding, str):
        return conv, act
    simple = isinstance(act, nn.ReLU | nn.Identity)
    if PackedConv.is_suitable(conv) and (simple or conv.kernel_size == (3, 3)):
        relu = isinstance(act, nn.ReLU)
        return PackedConv(conv, relu=relu), nn.Identity() if relu else act
    if type(act) not in ACTIVATIONS:
        return FusedConv(conv), act
    return FusedConv(conv, type(act)), nn.Identity()


def fuse_mixer(mixer: nn.Module, norm: nn.Module, act: nn.Module) -> tuple[nn.Module, nn.Module, nn.Module]:
    """Fuse a mixer with the norm and the activation behind it, and return the layers that replace the three."""
    if isinstance(mixer, LambdaLayer) and FusedLambda.is_fusible(mixer, norm):
        relu = isinstance(act, nn.ReLU)
        return FusedLambda(mixer, norm, relu=relu), nn.Identity(), nn.Identity() if relu else act
    if isinstance(norm, nn.Identity):
        mixer, act = fuse_conv(mixer, act)
    return mixer, norm, act
