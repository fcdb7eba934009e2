"""Stand-alone local self-attention (Ramachandran et al. 2019)."""

import torch
from torch import Tensor, nn

from lambdanets.mixers.interface import channels_per_head, stride_pool
from lambdanets.mixers.neighborhood import check_scope, neighborhood_attention, window_embeddings


class LocalAttention(nn.Module):
    """Local self-attention: y_n^h = Σ_m softmax_m(q_n^h · (k_m^h + r_nm^h) / √d_h) v_m^h.

    The sum is over the r × r positions m around n that exist. The relative embedding r_nm^h is the concatenation of one
    for the row and one for the column offset, half of the head's depth each. The paper has no factor 1 / √d_h; it keeps
    the logits of a new layer small.

    (B, C, H, W) → (B, C, ⌈H / stride⌉, ⌈W / stride⌉)

    Args:
        channels: C.
        stride: 2 appends a 3×3 average pooling.
        feature_size: ignored; the embeddings depend on the scope only.
        scope: r, odd.
        heads: number of heads; d_h = C / heads.

    Raises:
        UserError: the heads don't divide the channels, or the scope is even.
    """

    def __init__(
        self,
        channels: int,
        *,
        stride: int = 1,
        feature_size: tuple[int, int] | None = None,
        scope: int = 7,
        heads: int = 8,
    ) -> None:
        super().__init__()
        check_scope(scope)
        self.scope = scope
        self.heads = heads
        self.head_depth = channels_per_head(channels, heads)
        self.halves = [self.head_depth // 2, self.head_depth - self.head_depth // 2]
        self.qkv = nn.Conv2d(channels, 3 * channels, 1, bias=False)
        self.row_table = nn.Parameter(torch.empty(scope, heads, self.halves[0]))
        self.column_table = nn.Parameter(torch.empty(scope, heads, self.halves[1]))
        self.pool = stride_pool(stride)
        nn.init.normal_(self.qkv.weight, std=channels**-0.5)
        for table in (self.row_table, self.column_table):
            nn.init.normal_(table, std=self.head_depth**-0.5)

    def forward(self, x: Tensor) -> Tensor:
        query, key, value = self.qkv(x).unflatten(1, (3, self.heads, self.head_depth)).unbind(1)
        y = neighborhood_attention(
            query, key, value, self.position_logits, scope=self.scope, scale=self.head_depth**-0.5
        )
        return self.pool(y.flatten(1, 2))

    def position_logits(self, query: Tensor, window: tuple[int, int]) -> Tensor:
        """Compute q · r / √d_h: (N, h, s, s', d_h) → (N, h, s, s', w, w')."""
        by_row, by_column = (query * self.head_depth**-0.5).split(self.halves, -1)
        rows = window_embeddings(self.row_table, query.shape[2], window[0]).to(query.dtype)
        columns = window_embeddings(self.column_table, query.shape[3], window[1]).to(query.dtype)
        row_logits = torch.einsum("nhyxd,ythd->nhyxt", by_row, rows)
        column_logits = torch.einsum("nhyxd,xthd->nhyxt", by_column, columns)
        return row_logits[..., :, None] + column_logits[..., None, :]
