"""Stems: from an image to the features that enter the first stage."""

from torch import nn

from lambdanets.errors import UserError

STRIDES = {"imagenet": 4, "deep": 4, "small": 1, "strided": 2}


def conv_norm_act(in_channels: int, channels: int, kernel: int, stride: int) -> list[nn.Module]:
    """Convolution, batch norm, ReLU."""
    return [
        nn.Conv2d(in_channels, channels, kernel, stride, padding=kernel // 2, bias=False),
        nn.BatchNorm2d(channels),
        nn.ReLU(inplace=True),
    ]


def make_stem(kind: str, in_channels: int, channels: int) -> nn.Sequential:
    """(B, in_channels, H, W) → (B, channels, ⌈H / s⌉, ⌈W / s⌉) with s = STRIDES[kind].

    Args:
        kind: "imagenet", the 7×7 convolution and max pooling of He et al. (2016); "deep", the three 3×3 convolutions
            and max pooling of ResNet-D (He et al. 2019); "small", one 3×3 convolution for images of 32×32 and less;
            "strided", the same with stride 2.
        in_channels: channels of the images.
        channels: channels of the features.

    Raises:
        UserError: an unknown kind.
    """
    match kind:
        case "imagenet":
            layers = [*conv_norm_act(in_channels, channels, 7, 2), nn.MaxPool2d(3, 2, padding=1)]
        case "deep":
            half = channels // 2
            layers = [
                *conv_norm_act(in_channels, half, 3, 2),
                *conv_norm_act(half, half, 3, 1),
                *conv_norm_act(half, channels, 3, 1),
                nn.MaxPool2d(3, 2, padding=1),
            ]
        case "small" | "strided":
            layers = conv_norm_act(in_channels, channels, 3, STRIDES[kind])
        case _:
            raise UserError(f"stem={kind} is not known; choose one of {', '.join(STRIDES)}.")
    return nn.Sequential(*layers)
