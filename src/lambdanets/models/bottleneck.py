"""The bottleneck block around a mixer."""

from torch import Tensor, nn
from torchvision.ops import StochasticDepth

from lambdanets.mixers.seam import layout_of

EXPANSION = 4


class Bottleneck(nn.Module):
    """1×1 convolution, mixer, 1×1 convolution, gate; added to the shortcut (He et al. 2016, stride in the middle).

    (B, in_channels, H, W) → (B, 4 · channels, ⌈H / stride⌉, ⌈W / stride⌉)

    Args:
        in_channels: channels of the input.
        channels: inner width, the mixer's channels.
        mixer: module with that stride.
        gate: module on the block's output before the sum, or None.
        shortcut: module that brings the input to the output's shape, or None where it has it.
        drop_path: probability that an image skips the residual branch in training.
        act: class of the activations.
    """

    def __init__(
        self,
        in_channels: int,
        channels: int,
        *,
        mixer: nn.Module,
        gate: nn.Module | None = None,
        shortcut: nn.Module | None = None,
        drop_path: float = 0.0,
        act: type[nn.Module] = nn.ReLU,
    ) -> None:
        super().__init__()
        self.conv1 = nn.Conv2d(in_channels, channels, 1, bias=False)
        self.norm1 = nn.BatchNorm2d(channels)
        self.mixer = mixer
        self.norm2 = nn.BatchNorm2d(channels)
        self.conv3 = nn.Conv2d(channels, EXPANSION * channels, 1, bias=False)
        self.norm3 = nn.BatchNorm2d(EXPANSION * channels)
        self.gate = gate or nn.Identity()
        self.shortcut = shortcut or nn.Identity()
        self.drop_path = StochasticDepth(drop_path, "row")
        self.act = act(inplace=True)

    def forward(self, x: Tensor) -> Tensor:
        y = self.act(self.norm1(self.conv1(x)))
        y = self.mixer(y).contiguous(memory_format=layout_of(y))
        y = self.act(self.norm2(y))
        y = self.drop_path(self.gate(self.norm3(self.conv3(y))))
        # No norm needs its output for its gradient; a gate may.
        y = y.add_(self.shortcut(x)) if isinstance(self.gate, nn.Identity) else y + self.shortcut(x)
        return self.act(y)


def make_shortcut(kind: str, in_channels: int, out_channels: int, stride: int) -> nn.Module | None:
    """None where input and output have the same shape, else a projection.

    Args:
        kind: "conv", a 1×1 convolution with the stride; "pool", an average pooling before it (ResNet-D).
        in_channels: channels of the input.
        out_channels: channels of the output.
        stride: 1 or 2.
    """
    if stride == 1 and in_channels == out_channels:
        return None
    pool = kind == "pool" and stride > 1
    layers: list[nn.Module] = []
    if pool:
        layers.append(nn.AvgPool2d(stride, stride, ceil_mode=True, count_include_pad=False))
    layers.append(nn.Conv2d(in_channels, out_channels, 1, 1 if pool else stride, bias=False))
    layers.append(nn.BatchNorm2d(out_channels))
    return nn.Sequential(*layers)
