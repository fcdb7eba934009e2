"""Squeeze-and-excitation, the channel attention of Hu et al. (2018)."""

from torch import nn
from torchvision.ops import SqueezeExcitation

from lambdanets.errors import UserError
from lambdanets.mixers.conv import Conv


class SE:
    """The 3×3 convolution as mixer, and squeeze-and-excitation as the gate at the end of its block.

    Args:
        ratio: channels of the block's output / channels of the gate's hidden layer.
    """

    def __init__(self, ratio: int = 16) -> None:
        self.ratio = ratio

    def __call__(self, channels: int, *, stride: int, feature_size: tuple[int, int]) -> nn.Module:
        return Conv(channels, stride=stride)

    def gate(self, channels: int) -> nn.Module:
        return squeeze_excitation(channels, ratio=self.ratio)


def squeeze_excitation(channels: int, *, ratio: int = 16) -> nn.Module:
    """Make a gate that scales each channel by a sigmoid of a two-layer network of all channels' means.

    (B, C, H, W) → (B, C, H, W)

    Args:
        channels: C.
        ratio: C / channels of the hidden layer.

    Raises:
        UserError: the hidden layer would be empty.
    """
    if not 1 <= ratio <= channels:
        raise UserError(f"The SE ratio must be from 1 to a block's {channels} channels, not {ratio}.")
    return SqueezeExcitation(channels, channels // ratio)
