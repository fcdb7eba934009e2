"""The double attention block of A²-Nets (Chen et al. 2018)."""

from torch import Tensor, nn


class DoubleAttention(nn.Module):
    """Gathers features of the whole map into a few global ones and distributes them to each position.

    x + norm(W · [A · softmax(B)ᵀ] · softmax(V)) with A, B, V from 1×1 convolutions; B is normalized over the
    positions, V over its channels: (B, C, H, W) → (B, C, H, W), at a cost linear in the positions.

    Args:
        channels: C.
        ratio: how many times narrower than C each of A, B and V is.
    """

    def __init__(self, channels: int, *, ratio: int = 4) -> None:
        super().__init__()
        narrow = max(1, channels // ratio)
        self.features = nn.Conv2d(channels, narrow, 1, bias=False)
        self.gather = nn.Conv2d(channels, narrow, 1, bias=False)
        self.distribute = nn.Conv2d(channels, narrow, 1, bias=False)
        self.out = nn.Conv2d(narrow, channels, 1, bias=False)
        self.norm = nn.BatchNorm2d(channels)
        nn.init.zeros_(self.norm.weight)  # a new block is the identity

    def forward(self, x: Tensor) -> Tensor:
        features = self.features(x).flatten(2)
        gathered = features @ self.gather(x).flatten(2).softmax(2).mT  # (B, narrow, narrow)
        distributed = gathered @ self.distribute(x).flatten(2).softmax(1)
        return x + self.norm(self.out(distributed.unflatten(2, x.shape[2:])))
