"""Stems: from an image to the features that enter the first stage."""

from torch import nn

from lambdanets.errors import UserError

STRIDES = {"imagenet": 4, "deep": 4, "tiered": 4, "small": 1, "strided": 2}


def conv_norm_act(
    in_channels: int, channels: int, kernel: int, stride: int, act: type[nn.Module] = nn.ReLU
) -> list[nn.Module]:
    """Convolution, batch norm, activation."""
    return [
        nn.Conv2d(in_channels, channels, kernel, stride, padding=kernel // 2, bias=False),
        nn.BatchNorm2d(channels),
        act(inplace=True),
    ]


def make_stem(kind: str, in_channels: int, channels: int, act: type[nn.Module] = nn.ReLU) -> nn.Sequential:
    """(B, in_channels, H, W) → (B, channels, ⌈H / s⌉, ⌈W / s⌉) with s = STRIDES[kind].

    Args:
        kind: "imagenet", the 7×7 convolution and max pooling of He et al. (2016); "deep", the three 3×3 convolutions
            and max pooling of ResNet-D (He et al. 2019); "tiered", the same with 3/8, 1/2 and all of the channels, as
            timm's lambda networks have it; "small", one 3×3 convolution for images of 32×32 and less;
            "strided", the same with stride 2.
        in_channels: channels of the images.
        channels: channels of the features.
        act: class of the activations.

    Raises:
        UserError: an unknown kind.
    """
    match kind:
        case "imagenet":
            layers = [*conv_norm_act(in_channels, channels, 7, 2, act), nn.MaxPool2d(3, 2, padding=1)]
        case "deep" | "tiered":
            half = channels // 2
            first = half if kind == "deep" else channels * 3 // 8
            layers = [
                *conv_norm_act(in_channels, first, 3, 2, act),
                *conv_norm_act(first, half, 3, 1, act),
                *conv_norm_act(half, channels, 3, 1, act),
                nn.MaxPool2d(3, 2, padding=1),
            ]
        case "small" | "strided":
            layers = conv_norm_act(in_channels, channels, 3, STRIDES[kind], act)
        case _:
            raise UserError(f"stem={kind} is not known; choose one of {', '.join(STRIDES)}.")
    return nn.Sequential(*layers)
