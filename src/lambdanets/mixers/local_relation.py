"""The local relation layer (Hu et al. 2019)."""

import torch
from torch import Tensor, nn

from lambdanets.errors import UserError
from lambdanets.mixers.interface import stride_pool
from lambdanets.mixers.neighborhood import check_scope, neighborhood_attention, window_embeddings


class LocalRelation(nn.Module):
    """The local relation layer: y_n^g = Σ_m softmax_m(−(q_n^g − k_m^g)² + f^g(m − n)) x_m^g.

    The sum is over the r × r positions m around n that exist. Each group g of channels has a scalar query and key
    (appearance composability by squared differences) and its own geometry prior f, a two-layer network of the offset.
    The weighted sum is of the layer's input itself: the bottleneck's 1×1 convolutions transform the channels.

    (B, C, H, W) → (B, C, ⌈H / stride⌉, ⌈W / stride⌉)

    Args:
        channels: C.
        stride: 2 appends a 3×3 average pooling.
        feature_size: ignored.
        scope: r, odd.
        group_channels: channels per group.

    Raises:
        UserError: group_channels doesn't divide the channels, or the scope is even.
    """

    def __init__(
        self,
        channels: int,
        *,
        stride: int = 1,
        feature_size: tuple[int, int] | None = None,
        scope: int = 7,
        group_channels: int = 8,
    ) -> None:
        super().__init__()
        check_scope(scope)
        check_groups(group_channels, channels)
        self.scope = scope
        self.groups = channels // group_channels
        self.query_key = nn.Conv2d(channels, 2 * self.groups, 1, bias=False)
        self.prior = nn.Sequential(nn.Linear(2, self.groups), nn.ReLU(), nn.Linear(self.groups, self.groups))
        self.pool = stride_pool(stride)
        nn.init.normal_(self.query_key.weight, std=channels**-0.5)

    def forward(self, x: Tensor) -> Tensor:
        query, key = self.query_key(x)[:, :, None].chunk(2, 1)  # (B, groups, 1, H, W)
        # Up to a term that all keys of a query share, −(q − k)² = 2·q·k − k²: a product of two vectors of depth two.
        query, key = torch.cat([2 * query, torch.ones_like(query)], 2), torch.cat([key, -key.square()], 2)
        value = x.unflatten(1, (self.groups, -1))
        y = neighborhood_attention(query, key, value, self.position_logits, scope=self.scope, scale=1.0)
        return self.pool(y.flatten(1, 2))

    def position_logits(self, query: Tensor, window: tuple[int, int]) -> Tensor:
        """Compute the geometry prior of each query and position: (1, groups, s, s', w, w')."""
        table = self.prior(self.offsets())  # (r, r, groups)
        by_row = window_embeddings(table, query.shape[2], window[0])  # (s, w, r, groups)
        both = window_embeddings(by_row.movedim(2, 0), query.shape[3], window[1])  # (s', w', s, w, groups)
        return both.permute(4, 2, 0, 3, 1)[None]

    def offsets(self) -> Tensor:
        """Return the offsets (r, r, 2), rows and columns from −1 to 1 over the neighborhood."""
        side = torch.arange(self.scope, device=self.query_key.weight.device) - self.scope // 2
        side = side.to(self.query_key.weight.dtype) / max(self.scope // 2, 1)
        return torch.stack(torch.meshgrid(side, side, indexing="ij"), -1)


def check_groups(group_channels: int, channels: int) -> None:
    """Check that groups of so many channels divide a layer's channels.

    Raises:
        UserError: they don't.
    """
    if group_channels < 1 or channels % group_channels:
        raise UserError(
            f"group_channels={group_channels} does not divide the {channels} channels of a layer; choose one that does."
        )
