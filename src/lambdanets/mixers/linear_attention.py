"""The 3×3 convolution with linear attention (Table 3 of Bello 2021)."""

from torch import nn

from lambdanets.errors import UserError
from lambdanets.mixers.conv import Conv
from lambdanets.mixers.double_attention import DoubleAttention
from lambdanets.mixers.efficient_attention import EfficientAttention


class LinearAttention:
    """The 3×3 convolution as mixer, and attention of linear cost as the gate at the end of its block.

    Args:
        form: "double" (Chen et al. 2018) or "efficient" (Shen et al. 2018).
        ratio: channels of the block's output / channels of the attention.
        heads: heads of the efficient form; the double form has one.

    Raises:
        UserError: the form is unknown, or the ratio is below 1.
    """

    def __init__(self, form: str = "double", ratio: int = 4, heads: int = 8) -> None:
        if form not in ("double", "efficient"):
            raise UserError(f"form={form} of linear attention is not known; choose one of double, efficient.")
        if ratio < 1:
            raise UserError(f"ratio={ratio} of linear attention must be at least 1.")
        self.form = form
        self.ratio = ratio
        self.heads = heads

    def __call__(self, channels: int, *, stride: int, feature_size: tuple[int, int]) -> nn.Module:
        return Conv(channels, stride=stride)

    def gate(self, channels: int) -> nn.Module:
        if self.form == "double":
            return DoubleAttention(channels, ratio=self.ratio)
        return EfficientAttention(channels, ratio=self.ratio, heads=self.heads)
