"""Global self-attention with two-dimensional relative positions (Bello et al. 2019, Srinivas et al. 2021)."""

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from lambdanets.mixers.interface import attend, channels_per_head, stride_pool


class Attention(nn.Module):
    """Global self-attention: y_n^h = Σ_m softmax_m(q_n^h · (k_m^h + r_nm) / √d_h) v_m^h, over all positions m.

    The heads share the relative embedding r_nm = R^rows[m_y − n_y] + R^columns[m_x − n_x]. On a map of another size
    than `feature_size` the tables are interpolated linearly.

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
        super().__init__()
        self.heads = heads
        self.head_depth = channels_per_head(channels, heads)
        self.qkv = nn.Conv2d(channels, 3 * channels, 1, bias=False)
        height, width = feature_size
        self.row_table = nn.Parameter(torch.empty(2 * height - 1, self.head_depth))
        self.column_table = nn.Parameter(torch.empty(2 * width - 1, self.head_depth))
        self.pool = stride_pool(stride)
        self.reset_parameters()

    def reset_parameters(self) -> None:
        nn.init.normal_(self.qkv.weight, std=self.qkv.in_channels**-0.5)
        nn.init.normal_(self.row_table, std=self.head_depth**-0.5)
        nn.init.normal_(self.column_table, std=self.head_depth**-0.5)

    def forward(self, x: Tensor) -> Tensor:
        query, key, value = self.qkv(x).unflatten(1, (3, self.heads, self.head_depth)).unbind(1)
        y = relative_attention(query, key, value, self.row_table, self.column_table)
        return self.pool(y.flatten(1, 2))


def relative_attention(query: Tensor, key: Tensor, value: Tensor, row_table: Tensor, column_table: Tensor) -> Tensor:
    """Compute Σ_m softmax_m(q_n · (k_m + r_nm) / √d_h) v_m over all positions m of a map.

    Args:
        query: (B, h, d_h, H, W).
        key: of the same shape.
        value: (B, h, v, H, W).
        row_table: (2H − 1, d_h); a table of another height is interpolated.
        column_table: (2W − 1, d_h), likewise.

    Returns:
        (B, h, v, H, W).
    """
    height, width = query.shape[3:]
    query = query * query.shape[2] ** -0.5
    rows = torch.einsum("bhdyx,ytd->bhyxt", query, axis_embeddings(row_table, height))
    columns = torch.einsum("bhdyx,xtd->bhyxt", query, axis_embeddings(column_table, width))
    bias = rows[..., :, None] + columns[..., None, :]
    y = attend(
        query.flatten(3).transpose(2, 3),
        key.flatten(3).transpose(2, 3),
        value.flatten(3).transpose(2, 3),
        bias.flatten(4).flatten(2, 3),
        scale=1.0,
    )
    return y.transpose(2, 3).unflatten(3, (height, width))


def axis_embeddings(table: Tensor, length: int) -> Tensor:
    """Expand a table to all pairs along one axis: (2L' − 1, d) → (L, L, d), with the offset m − n at [n, m]."""
    size = 2 * length - 1
    if table.shape[0] != size:
        table = F.interpolate(table.T[None], size=size, mode="linear", align_corners=True)[0].T
    return table.unfold(0, length, 1).flip(0).transpose(1, 2)
