"""The 3×3 convolution of He et al. (2016), the baseline that every other mixer replaces."""

from torch import nn


class Conv(nn.Conv2d):
    """A 3×3 convolution with the block's stride: (B, C, H, W) → (B, C, ⌈H / stride⌉, ⌈W / stride⌉)."""

    def __init__(self, channels: int, *, stride: int = 1, feature_size: tuple[int, int] | None = None) -> None:
        super().__init__(channels, channels, 3, stride, padding=1, bias=False)
