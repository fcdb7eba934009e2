"""The lambda layer (Bello 2021, section 3)."""

from typing import Literal

import torch
from torch import Tensor, nn

from lambdanets.errors import UserError
from lambdanets.mixers.seam import downsample, split_heads
from lambdanets.ops import (
    content_lambda,
    global_position_lambdas,
    local_position_lambdas,
    resize_table,
    scope_to_offsets,
)


class LambdaLayer(nn.Module):
    """y_n^h = (λc + λp_n)ᵀ q_n^h with λc = softmax(K)ᵀ V and λp_n = E_nᵀ V: no attention map is ever formed.

    (B, C, H, W) → (B, C, ⌈H / stride⌉, ⌈W / stride⌉)

    Args:
        channels: C, the d of the paper.
        stride: 2 appends a 3×3 average pooling.
        feature_size: (H, W) of the input; only a global scope needs it. On a map of another size the layer
            interpolates its table of embeddings.
        scope: side r of the r × r positions around a query that position lambdas see, odd, or "global" for all. The
            content lambda sees all positions in either case.
        key_depth: k.
        heads: h, the number of queries a position; the value depth is v = C / h.
        intra_depth: u.

    Raises:
        UserError: the heads don't divide the channels, the scope is even, a global scope without a feature size.
    """

    def __init__(
        self,
        channels: int,
        *,
        stride: int = 1,
        feature_size: tuple[int, int] | None = None,
        scope: int | Literal["global"] = 23,
        key_depth: int = 16,
        heads: int = 4,
        intra_depth: int = 1,
    ) -> None:
        super().__init__()
        self.scope = scope
        self.key_depth = key_depth
        self.heads = heads
        self.intra_depth = intra_depth
        self.value_depth = split_heads(channels, heads)
        if min(key_depth, intra_depth) < 1:
            raise UserError(f"key_depth={key_depth} and intra_depth={intra_depth} must both be at least 1.")

        self.sections = [heads * key_depth, key_depth * intra_depth, self.value_depth * intra_depth]
        self.qkv = nn.Conv2d(channels, sum(self.sections), 1, bias=False)
        self.query_norm = nn.BatchNorm2d(self.sections[0])
        self.value_norm = nn.BatchNorm2d(self.sections[2])
        self.table = nn.Parameter(torch.empty(key_depth, intra_depth, *table_size(scope, feature_size)))
        self.pool = downsample(stride)
        self.reset_parameters()

    def reset_parameters(self) -> None:
        nn.init.normal_(self.qkv.weight, std=self.qkv.in_channels**-0.5)
        # A position lambda sums over hundreds of values of unit variance, the content lambda averages over them: small
        # embeddings start both at the same order of magnitude. (The paper's choice is not known to us; timm's is this.)
        nn.init.trunc_normal_(self.table, std=0.02)

    def forward(self, x: Tensor) -> Tensor:
        query, key, value = self.qkv(x).split(self.sections, dim=1)
        query = self.query_norm(query).unflatten(1, (self.heads, self.key_depth))
        key = key.unflatten(1, (self.key_depth, self.intra_depth))
        value = self.value_norm(value).unflatten(1, (self.intra_depth, self.value_depth))
        content = content_lambda(key.flatten(3), value.flatten(3))
        lambdas = content[..., None, None] + self.position_lambdas(value)
        y = torch.einsum("bhkyx,bkvyx->bhvyx", query, lambdas)
        return self.pool(y.flatten(1, 2))

    def position_lambdas(self, value: Tensor) -> Tensor:
        height, width = value.shape[3:]
        if self.scope == "global":
            return global_position_lambdas(value, resize_table(self.table, height, width))
        # On a map with fewer positions than the scope, all pairs of positions are fewer than positions times offsets.
        if height * width <= self.scope**2:
            return global_position_lambdas(value, scope_to_offsets(self.table, height, width))
        return local_position_lambdas(value, self.table)

    def extra_repr(self) -> str:
        names = ("scope", "key_depth", "heads", "intra_depth", "value_depth")
        return ", ".join(f"{name}={getattr(self, name)}" for name in names)


def table_size(scope: int | Literal["global"], feature_size: tuple[int, int] | None) -> tuple[int, int]:
    """Rows and columns of the table of offsets.

    Raises:
        UserError: the scope is neither odd nor "global", or it is "global" and there is no feature size.
    """
    if scope == "global":
        if feature_size is None:
            raise UserError("scope=global needs the feature_size (H, W) of the layer's input, and none was given.")
        height, width = feature_size
        return 2 * height - 1, 2 * width - 1
    if not isinstance(scope, int) or scope < 1 or scope % 2 == 0:
        raise UserError(f"scope={scope} has no middle; give an odd number of positions such as 7 or 23, or 'global'.")
    return scope, scope
