"""The layers of a ResNet before its stages, and their initialization."""

import itertools
import math

import torch
from torch import Tensor, nn

from lambdanets.errors import UserError

STEM_STRIDES = {"imagenet": 4, "deep": 4, "deep_strided": 4, "tiered": 4, "fine": 4, "small": 1, "strided": 2}
STEM_POOLS = (nn.MaxPool2d, nn.Sequential)  # classes of a last child that halves the map


class PatchTransform(nn.Conv2d):
    """A convolution that starts as the discrete cosine transform of its patches, each frequency with both signs.

    The frequencies of natural images are nearly uncorrelated, so that a batch norm behind them whitens the patches. In
    short trainings on small images this saves epochs, as Jordan (2024) found with fixed eigenvectors of the patches.
    """

    def reset_parameters(self) -> None:
        """Set pairs of channels to ± the lowest frequencies over (C, kernel, kernel); others stay random."""
        nn.init.kaiming_normal_(self.weight, mode="fan_out", nonlinearity="relu")
        frequencies = cosine_basis(self.weight.shape[1:])[: self.out_channels // 2]
        with torch.no_grad():
            self.weight[: 2 * len(frequencies)] = torch.cat([frequencies, -frequencies])


def cosine_basis(shape: tuple[int, ...]) -> Tensor:
    """Return the orthonormal basis of the discrete cosine transform (DCT-II), from low to high frequencies.

    Args:
        shape: of a signal in any number of dimensions.

    Returns:
        (number of values of a signal, *shape).
    """
    waves = []
    for size in shape:
        positions = torch.arange(size, dtype=torch.float64) + 0.5
        basis = torch.stack([torch.cos(math.pi * frequency / size * positions) for frequency in range(size)])
        waves.append(basis / basis.norm(dim=1, keepdim=True))
    signals = []
    for frequencies in sorted(itertools.product(*map(range, shape)), key=sum):
        signal = torch.ones((), dtype=torch.float64)
        for basis, frequency in zip(waves, frequencies, strict=True):
            signal = signal[..., None] * basis[frequency]
        signals.append(signal)
    return torch.stack(signals).float()


def conv_norm_act(in_channels: int, channels: int, kernel: int, stride: int, act: type[nn.Module]) -> list[nn.Module]:
    return norm_act(nn.Conv2d(in_channels, channels, kernel, stride, padding=kernel // 2, bias=False), act)


def norm_act(conv: nn.Conv2d, act: type[nn.Module]) -> list[nn.Module]:
    return [conv, nn.BatchNorm2d(conv.out_channels), act(inplace=True)]


def make_stem(kind: str, in_channels: int, channels: int, act: type[nn.Module]) -> nn.Sequential:
    """Make the layers before the stages: (B, in_channels, H, W) → (B, channels, ⌈H / s⌉, ⌈W / s⌉).

    Args:
        kind: a key of STEM_STRIDES, which gives s: "imagenet", the 7×7 convolution and max pooling of He et al. (2016);
            "deep", the three 3×3 convolutions and max pooling of ResNet-D (He et al. 2019); "deep_strided", the same
            with a 3×3 convolution of stride 2 in place of the pooling, as in ResNet-RS (Bello et al. 2021); "tiered",
            as "deep", with 3/8, 1/2 and all of the channels, as in timm's lambda networks; "small", one 3×3 convolution
            for images of 32×32 and less; "strided", the same with stride 2; "fine", three 3×3 convolutions for images
            of 32×32, of which the first, a `PatchTransform`, has stride 1, and max pooling.
        in_channels: channels of the images.
        channels: channels of the features.
        act: class of the activations.

    Returns:
        The layers in order. Pooling, or the convolution in its place, is the last child, of a class in STEM_POOLS.

    Raises:
        UserError: the kind is unknown.
    """
    match kind:
        case "imagenet":
            layers = [*conv_norm_act(in_channels, channels, 7, 2, act), nn.MaxPool2d(3, 2, padding=1)]
        case "deep" | "deep_strided" | "tiered":
            half = channels // 2
            first = channels * 3 // 8 if kind == "tiered" else half
            layers = [
                *conv_norm_act(in_channels, first, 3, 2, act),
                *conv_norm_act(first, half, 3, 1, act),
                *conv_norm_act(half, channels, 3, 1, act),
                nn.Sequential(*conv_norm_act(channels, channels, 3, 2, act))
                if kind == "deep_strided"
                else nn.MaxPool2d(3, 2, padding=1),
            ]
        case "fine":
            half = channels // 2
            layers = [
                *norm_act(PatchTransform(in_channels, half, 3, padding=1, bias=False), act),
                *conv_norm_act(half, channels, 3, 2, act),
                *conv_norm_act(channels, channels, 3, 1, act),
                nn.MaxPool2d(3, 2, padding=1),
            ]
        case "small" | "strided":
            layers = conv_norm_act(in_channels, channels, 3, STEM_STRIDES[kind], act)
        case _:
            raise UserError(f"stem={kind} is not known; choose one of {', '.join(STEM_STRIDES)}.")
    return nn.Sequential(*layers)


def init_stem(stem: nn.Module) -> None:
    """Initialize the convolutions of a stem."""
    for layer in stem.modules():
        if isinstance(layer, PatchTransform):
            layer.reset_parameters()
        else:
            init_conv(layer)


def init_conv(layer: nn.Module) -> None:
    if isinstance(layer, nn.Conv2d):
        nn.init.kaiming_normal_(layer.weight, mode="fan_out", nonlinearity="relu")
