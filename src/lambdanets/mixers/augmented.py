"""Attention-augmented convolution (Bello et al. 2019)."""

import torch
from torch import Tensor, nn

from lambdanets.errors import UserError
from lambdanets.mixers.attention import relative_attention
from lambdanets.mixers.interface import channels_per_head, stride_pool


class Augmented(nn.Module):
    """A 3×3 convolution, some of whose output channels come from global self-attention with 2D relative positions.

    (B, C, H, W) → (B, C, ⌈H / stride⌉, ⌈W / stride⌉)

    The attention is that of `Attention`, with a key depth of its own, and a 1×1 convolution behind it. With a stride,
    its input is the 3×3 average pooling of the mixer's input, so that it works on the smaller map.

    Args:
        channels: C.
        stride: of the convolution.
        feature_size: (H, W) of the input.
        heads: number of heads.
        value_ratio: υ, attention's output channels / C, rounded to a multiple of the heads.
        key_ratio: κ, depth of all heads' keys / C, likewise rounded.
        min_key_depth: lower limit of one head's key depth.

    Raises:
        UserError: the heads don't divide the channels, or attention leaves the convolution no channels.
    """

    def __init__(
        self,
        channels: int,
        *,
        stride: int = 1,
        feature_size: tuple[int, int],
        heads: int = 8,
        value_ratio: float = 0.1,
        key_ratio: float = 0.2,
        min_key_depth: int = 20,
    ) -> None:
        super().__init__()
        channels_per_head(channels, heads)
        value_depth = max(1, round(value_ratio * channels / heads))
        self.heads = heads
        self.depths = [max(min_key_depth, round(key_ratio * channels / heads))] * 2 + [value_depth]
        attended = heads * value_depth
        if attended >= channels:
            raise UserError(
                f"heads={heads} and value_ratio={value_ratio} give attention {attended} of {channels} channels and "
                "leave the convolution none: lower one of them."
            )
        self.conv = nn.Conv2d(channels, channels - attended, 3, stride, padding=1, bias=False)
        self.pool = stride_pool(stride)
        self.qkv = nn.Conv2d(channels, heads * sum(self.depths), 1, bias=False)
        self.out = nn.Conv2d(attended, attended, 1, bias=False)
        height, width = (-(-side // stride) for side in feature_size)
        self.row_table = nn.Parameter(torch.empty(2 * height - 1, self.depths[0]))
        self.column_table = nn.Parameter(torch.empty(2 * width - 1, self.depths[0]))
        self.reset_parameters()

    def reset_parameters(self) -> None:
        nn.init.kaiming_normal_(self.conv.weight, mode="fan_out", nonlinearity="relu")
        for layer in (self.qkv, self.out):
            nn.init.normal_(layer.weight, std=layer.in_channels**-0.5)
        for table in (self.row_table, self.column_table):
            nn.init.normal_(table, std=self.depths[0] ** -0.5)

    def forward(self, x: Tensor) -> Tensor:
        query, key, value = self.qkv(self.pool(x)).unflatten(1, (self.heads, -1)).split(self.depths, 2)
        attended = relative_attention(query, key, value, self.row_table, self.column_table)
        return torch.cat([self.conv(x), self.out(attended.flatten(1, 2))], 1)
