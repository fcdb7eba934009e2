"""Efficient attention (Shen et al. 2018)."""

from torch import Tensor, nn

from lambdanets.mixers.interface import channels_per_head


class EfficientAttention(nn.Module):
    """Attention with separate softmaxes of queries and keys, so that keys and values are multiplied first.

    x + norm(W · softmax(Q) · (softmax(K)ᵀ · V)), queries normalized over each head's channels, keys over the
    positions: (B, C, H, W) → (B, C, H, W). The cost is linear in the number of positions.

    Args:
        channels: C.
        ratio: C / channels of each of Q, K and V.
        heads: number of heads.

    Raises:
        UserError: the heads don't divide the channels of Q, K and V.
    """

    def __init__(self, channels: int, *, ratio: int = 4, heads: int = 8) -> None:
        super().__init__()
        inner_channels = max(1, channels // ratio)
        channels_per_head(inner_channels, heads)
        self.heads = heads
        self.qkv = nn.Conv2d(channels, 3 * inner_channels, 1, bias=False)
        self.out = nn.Conv2d(inner_channels, channels, 1, bias=False)
        self.norm = nn.BatchNorm2d(channels)
        nn.init.zeros_(self.norm.weight)  # a new block is the identity

    def forward(self, x: Tensor) -> Tensor:
        query, key, value = self.qkv(x).flatten(2).unflatten(1, (3, self.heads, -1)).unbind(1)  # (B, h, d_h, n)
        context = value @ key.softmax(3).mT  # (B, h, d_h, d_h)
        y = context @ query.softmax(2)
        return x + self.norm(self.out(y.flatten(1, 2).unflatten(2, x.shape[2:])))
