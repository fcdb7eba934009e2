"""The ResNet that every mixer shares: depths, layouts, stems, the bottleneck block, and the network."""

import copy
from collections.abc import Sequence

import torch
from torch import Tensor, nn
from torchvision.ops import StochasticDepth

from lambdanets.errors import UserError
from lambdanets.mixers import Conv, Gate, Mixer
from lambdanets.mixers.interface import memory_format_of

# 26 to 152 as He et al. (2016) and Wightman et al. (2021), the deeper ones as ResNet-RS (Bello et al. 2021).
DEPTHS: dict[int, tuple[int, ...]] = {
    26: (2, 2, 2, 2),
    50: (3, 4, 6, 3),
    101: (3, 4, 23, 3),
    152: (3, 8, 36, 3),
    200: (3, 24, 36, 3),
    270: (4, 29, 53, 4),
    350: (4, 36, 72, 4),
    420: (4, 44, 87, 4),
}
EXPANSION = 4
STEM_STRIDES = {"imagenet": 4, "deep": 4, "tiered": 4, "small": 1, "strided": 2}
ACTIVATIONS: dict[str, type[nn.Module]] = {"relu": nn.ReLU, "silu": nn.SiLU}


class ResNet(nn.Module):
    """A bottleneck ResNet whose 3×3 convolutions are replaced by a mixer: (B, in_channels, H, W) → (B, num_classes).

    Args:
        mixer: factory of the module in each block's middle (see `lambdanets.mixers.Mixer`).
        depth: a named depth (26, 50, 101, 152, 200, 270, 350, 420) or the blocks per stage.
        width: multiplier of the stages' inner widths 64, 128, 256, 512, … and of the stem's 64.
        stem: "imagenet", "deep" (ResNet-D), "tiered" (timm's), "small" (3×3) or "strided" (3×3 with stride 2).
        shortcut: "conv" or "pool" (ResNet-D).
        layout: one entry a stage: C, L, or a list of the blocks (from 1) that use the mixer; such as "CCLL".
        strides: stride of each stage's first block.
        gate: factory of the gate at the end of the blocks that the layout keeps convolutional, or None.
        image_size: (H, W) of the images; fixes the feature size that each mixer is told.
        in_channels: channels of the images.
        num_classes: number of logits.
        zero_init: start the gain of each block's last batch norm at 0, so that blocks start as identities
            (Goyal et al. 2017).
        drop_path: probability of dropping the last block's residual branch; from the first block on it grows linearly.
        dropout: probability of dropping a feature before the classifier.
        act: activation, "relu" or "silu".
        channels_last: whether maps lie in memory as (B, H, W, C), in which convolutions and lambda layers are faster.

    Attributes:
        feature_channels: channels of each stage's features.
        feature_strides: stride of each stage's features against the image.

    Raises:
        UserError: an unknown depth, stem, shortcut or layout, a number of strides that is not that of the stages.
    """

    def __init__(
        self,
        mixer: Mixer,
        *,
        depth: int | Sequence[int] = 50,
        width: float = 1.0,
        stem: str = "imagenet",
        shortcut: str = "conv",
        layout: str | Sequence[str | Sequence[int]] = "LLLL",
        strides: Sequence[int] = (1, 2, 2, 2),
        gate: Gate | None = None,
        image_size: tuple[int, int] = (224, 224),
        in_channels: int = 3,
        num_classes: int = 1000,
        zero_init: bool = True,
        drop_path: float = 0.0,
        dropout: float = 0.0,
        act: str = "relu",
        channels_last: bool = True,
    ) -> None:
        super().__init__()
        self.memory_format = torch.channels_last if channels_last else torch.contiguous_format
        blocks = parse_depth(depth)
        mixer = copy.deepcopy(mixer)  # what a factory shares between its layers, it shares within this model only
        uses_mixer = parse_layout(layout, blocks)
        if len(strides) != len(blocks) or not set(strides) <= {1, 2}:
            raise UserError(f"strides={list(strides)} must give 1 or 2 for each of the model's {len(blocks)} stages.")
        if act not in ACTIVATIONS:
            raise UserError(f"act={act} is not known; choose one of {', '.join(ACTIVATIONS)}.")
        if shortcut not in ("conv", "pool"):
            raise UserError(f"shortcut={shortcut} is not known; choose one of conv, pool.")

        channels = scale_width(64, width)
        self.stem = make_stem(stem, in_channels, channels, ACTIVATIONS[act])
        reduction = STEM_STRIDES[stem]
        feature_size = strided_size(image_size, reduction)
        total = sum(blocks)
        drop_paths = iter(drop_path * number / max(total - 1, 1) for number in range(total))

        self.stages = nn.ModuleList()
        self.feature_channels: list[int] = []
        self.feature_strides: list[int] = []
        for index, stage_mixers in enumerate(uses_mixer):
            inner = scale_width(64 * 2**index, width)
            stage = nn.Sequential()
            for number, use_mixer in enumerate(stage_mixers):
                stride = strides[index] if number == 0 else 1
                make_mixer: Mixer = mixer if use_mixer else Conv
                make_gate: Gate | None = getattr(mixer, "gate", None) if use_mixer else gate
                stage.append(
                    Bottleneck(
                        channels,
                        inner,
                        mixer=make_mixer(inner, stride=stride, feature_size=feature_size),
                        gate=make_gate(EXPANSION * inner) if make_gate else None,
                        shortcut=make_shortcut(shortcut, channels, EXPANSION * inner, stride),
                        drop_path=next(drop_paths),
                        act=ACTIVATIONS[act],
                    )
                )
                channels = EXPANSION * inner
                feature_size = strided_size(feature_size, stride)
                reduction *= stride
            self.stages.append(stage)
            self.feature_channels.append(channels)
            self.feature_strides.append(reduction)

        self.dropout = nn.Dropout(dropout)
        self.classifier = nn.Linear(channels, num_classes)
        self.reset_parameters(zero_init)

    def reset_parameters(self, zero_init: bool) -> None:
        """He's initialisation of the skeleton's convolutions; mixers and gates of another kind have their own."""
        for module in self.modules():
            if isinstance(module, Bottleneck):
                skeleton = [module.conv1, module.conv3, *module.shortcut.modules()]
                if isinstance(module.mixer, Conv):
                    skeleton.append(module.mixer)
                for layer in skeleton:
                    init_conv(layer)
                if zero_init:
                    nn.init.zeros_(module.norm3.weight)
        for layer in self.stem.modules():
            init_conv(layer)
        nn.init.normal_(self.classifier.weight, std=0.01)
        nn.init.zeros_(self.classifier.bias)

    def features(self, x: Tensor) -> list[Tensor]:
        """The output of each stage: (B, feature_channels[i], ⌈H / feature_strides[i]⌉, ⌈W / feature_strides[i]⌉)."""
        x = self.stem(x.contiguous(memory_format=self.memory_format))
        outputs = []
        for stage in self.stages:
            x = stage(x)
            outputs.append(x)
        return outputs

    def forward(self, x: Tensor) -> Tensor:
        return self.classifier(self.dropout(self.features(x)[-1].mean((2, 3))))


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
        y = self.mixer(y).contiguous(memory_format=memory_format_of(y))
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


def conv_norm_act(
    in_channels: int, channels: int, kernel: int, stride: int, act: type[nn.Module] = nn.ReLU
) -> list[nn.Module]:
    """Convolution, batch norm, activation."""
    return [
        nn.Conv2d(in_channels, channels, kernel, stride, padding=kernel // 2, bias=False),
        nn.BatchNorm2d(channels),
        act(inplace=True),
    ]


def make_stem(kind: str, in_channels: int, channels: int, act: type[nn.Module] = nn.ReLU) -> nn.Sequential:
    """(B, in_channels, H, W) → (B, channels, ⌈H / s⌉, ⌈W / s⌉) with s = STEM_STRIDES[kind].

    Args:
        kind: "imagenet", the 7×7 convolution and max pooling of He et al. (2016); "deep", the three 3×3 convolutions
            and max pooling of ResNet-D (He et al. 2019); "tiered", the same with 3/8, 1/2 and all of the channels, as
            timm's lambda networks have it; "small", one 3×3 convolution for images of 32×32 and less;
            "strided", the same with stride 2.
        in_channels: channels of the images.
        channels: channels of the features.
        act: class of the activations.

    Raises:
        UserError: an unknown kind.
    """
    match kind:
        case "imagenet":
            layers = [*conv_norm_act(in_channels, channels, 7, 2, act), nn.MaxPool2d(3, 2, padding=1)]
        case "deep" | "tiered":
            half = channels // 2
            first = half if kind == "deep" else channels * 3 // 8
            layers = [
                *conv_norm_act(in_channels, first, 3, 2, act),
                *conv_norm_act(first, half, 3, 1, act),
                *conv_norm_act(half, channels, 3, 1, act),
                nn.MaxPool2d(3, 2, padding=1),
            ]
        case "small" | "strided":
            layers = conv_norm_act(in_channels, channels, 3, STEM_STRIDES[kind], act)
        case _:
            raise UserError(f"stem={kind} is not known; choose one of {', '.join(STEM_STRIDES)}.")
    return nn.Sequential(*layers)


def parse_depth(depth: int | Sequence[int]) -> tuple[int, ...]:
    """A named depth such as 50, or the blocks per stage themselves.

    Raises:
        UserError: a depth that has no name, or a stage without blocks.
    """
    if isinstance(depth, int):
        if depth not in DEPTHS:
            raise UserError(
                f"depth={depth} is not a known ResNet; choose one of {', '.join(map(str, DEPTHS))} or give the blocks "
                "per stage, such as [1,1,1,1]."
            )
        return DEPTHS[depth]
    if not depth or min(depth) < 1:
        raise UserError(f"depth={list(depth)} must name at least one stage, and at least one block for each.")
    return tuple(depth)


def parse_layout(layout: str | Sequence[str | Sequence[int]], blocks: Sequence[int]) -> list[list[bool]]:
    """For each stage and block: does it use the mixer?

    Args:
        layout: one entry a stage: C (convolutions), L (the mixer), or the numbers, from 1, of the blocks with the mixer
            in a stage that is otherwise convolutional. "CCLL" is short for ["C", "C", "L", "L"] (paper, Table 8).
        blocks: number of blocks per stage.

    Raises:
        UserError: another number of stages, an unknown letter, or a block that the stage doesn't have.
    """
    if len(layout) != len(blocks):
        raise UserError(
            f"layout={layout} speaks of {len(layout)} stages, the model has {len(blocks)}: give one entry for each."
        )
    return [parse_stage(entry, count) for entry, count in zip(layout, blocks, strict=True)]


def parse_stage(entry: str | Sequence[int], count: int) -> list[bool]:
    if isinstance(entry, str):
        if entry not in ("C", "L"):
            raise UserError(
                f"layout has '{entry}' for a stage; use C (convolutions), L (the mixer) or a list of block numbers."
            )
        return [entry == "L"] * count
    if unknown := sorted(set(entry) - set(range(1, count + 1))):
        raise UserError(f"layout names blocks {unknown} of a stage that has blocks 1 to {count}.")
    return [number in entry for number in range(1, count + 1)]


def strided_size(size: tuple[int, int], stride: int) -> tuple[int, int]:
    """The feature size behind a layer of that stride: every strided layer here rounds up."""
    height, width = size
    return -(-height // stride), -(-width // stride)


def scale_width(channels: int, width: float) -> int:
    """Channels times the width multiplier, as the nearest multiple of 8."""
    return max(8, round(channels * width / 8) * 8)


def init_conv(layer: nn.Module) -> None:
    if isinstance(layer, nn.Conv2d):
        nn.init.kaiming_normal_(layer.weight, mode="fan_out", nonlinearity="relu")
