"""Axial self-attention (Ho et al. 2019, Wang et al. 2020)."""

import torch
from torch import Tensor, nn

from lambdanets.mixers.attention import axis_embeddings
from lambdanets.mixers.interface import attend, channels_per_head, stride_pool


class Axial(nn.Sequential):
    """Axial self-attention: within each column, then within each row, so that a position sees all others.

    It has 2·n·√n attention weights instead of the n² of global attention.

    (B, C, H, W) → (B, C, ⌈H / stride⌉, ⌈W / stride⌉)

    Args:
        channels: C.
        stride: 2 appends a 3×3 average pooling.
        feature_size: (H, W) of the input.
        heads: number of heads; d_h = C / heads.

    Raises:
        UserError: the heads don't divide the channels.
    """

    def __init__(self, channels: int, *, stride: int = 1, feature_size: tuple[int, int], heads: int = 8) -> None:
        super().__init__(
            AxisAttention(channels, axis=2, length=feature_size[0], heads=heads),
            AxisAttention(channels, axis=3, length=feature_size[1], heads=heads),
            stride_pool(stride),
        )
        self.heads = heads


class AxisAttention(nn.Module):
    """Self-attention along one axis: y_n^h = Σ_m softmax_m(q_n^h · (k_m^h + r_(m − n)) / √d_h) v_m^h.

    The sum is over the positions m of n's column or row. The heads share the relative embedding r; at another length
    than `length` it is interpolated linearly.

    Args:
        channels: C of (B, C, H, W), in and out.
        axis: 2 for columns, 3 for rows.
        length: positions along the axis.
        heads: number of heads.

    Raises:
        UserError: the heads don't divide the channels.
    """

    def __init__(self, channels: int, *, axis: int, length: int, heads: int) -> None:
        super().__init__()
        self.axis = axis
        self.heads = heads
        self.head_depth = channels_per_head(channels, heads)
        self.qkv = nn.Conv2d(channels, 3 * channels, 1, bias=False)
        self.table = nn.Parameter(torch.empty(2 * length - 1, self.head_depth))
        nn.init.normal_(self.qkv.weight, std=channels**-0.5)
        nn.init.normal_(self.table, std=self.head_depth**-0.5)

    def forward(self, x: Tensor) -> Tensor:
        qkv = self.qkv(x).unflatten(1, (3, self.heads, self.head_depth))
        qkv = qkv.movedim(self.axis + 2, -1).permute(1, 0, 4, 2, 5, 3).contiguous()
        query, key, value = qkv.flatten(1, 2).unbind(0)  # (B · lines, h, positions, d_h) each
        query = query * self.head_depth**-0.5
        embeddings = axis_embeddings(self.table, query.shape[2])
        bias = torch.einsum("bhnd,nmd->bhnm", query, embeddings)
        y = attend(query, key, value, bias, scale=1.0)
        y = y.unflatten(0, (x.shape[0], x.shape[5 - self.axis]))
        return y.permute(0, 2, 4, 1, 3).flatten(1, 2).movedim(-1, self.axis)
