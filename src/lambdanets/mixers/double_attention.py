"""The double attention block of A²-Nets (Chen et al. 2018)."""

from torch import Tensor, nn


class DoubleAttention(nn.Module):
    """Double attention: gathers features of the whole map into a few global ones, distributes them to each position.

    x + norm(W · [A · softmax(B)ᵀ] · softmax(V)) with A, B, V from 1×1 convolutions; B is normalized over the
    positions, V over its channels: (B, C, H, W) → (B, C, H, W). The cost is linear in the number of positions.

    Args:
        channels: C.
        ratio: C / channels of each of A, B and V.
    """

    def __init__(self, channels: int, *, ratio: int = 4) -> None:
        super().__init__()
        inner_channels = max(1, channels // ratio)
        self.features = nn.Conv2d(channels, inner_channels, 1, bias=False)
        self.gather = nn.Conv2d(channels, inner_channels, 1, bias=False)
        self.distribute = nn.Conv2d(channels, inner_channels, 1, bias=False)
        self.out = nn.Conv2d(inner_channels, channels, 1, bias=False)
        self.norm = nn.BatchNorm2d(channels)
        nn.init.zeros_(self.norm.weight)  # a new block is the identity

    def forward(self, x: Tensor) -> Tensor:
        features = self.features(x).flatten(2)
        gathered = features @ self.gather(x).flatten(2).softmax(2).mT  # (B, inner_channels, inner_channels)
        distributed = gathered @ self.distribute(x).flatten(2).softmax(1)
        return x + self.norm(self.out(distributed.unflatten(2, x.shape[2:])))
