"""The ResNet that every mixer shares.

From small to large: layers, bottleneck block, network; at the end the options `depth`, `layout` and `width`.
"""

import copy
from collections.abc import Sequence
from typing import Any

import torch.fx
from torch import Tensor, nn
from torchvision.ops import StochasticDepth

from lambdanets.errors import UserError
from lambdanets.mixers import Conv, Gate, GatedMixer, Mixer
from lambdanets.mixers.interface import lay_out, lay_out_like
from lambdanets.models.backbone import Backbone, BlockSequence, Feature, GlobalPool
from lambdanets.models.stem import STEM_POOLS, STEM_STRIDES, init_conv, init_stem, make_stem

for traced in ("lay_out", "lay_out_like"):
    torch.fx.wrap(traced)

# Blocks per stage: 26 to 152 as He et al. (2016) and Wightman et al. (2021), others as ResNet-RS (Bello et al. 2021).
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
# Output channels of a block / its inner channels.
EXPANSION = 4
ACTIVATIONS: dict[str, type[nn.Module]] = {"relu": nn.ReLU, "silu": nn.SiLU}
Layout = str | Sequence[str | Sequence[int]]


# Layers


def make_shortcut(kind: str, in_channels: int, channels: int, stride: int) -> nn.Module | None:
    """Make a block's projection to (B, channels, ⌈H / stride⌉, ⌈W / stride⌉); None where the input has that shape.

    Args:
        kind: "conv", a 1×1 convolution with the stride; "pool", an average pooling before it (ResNet-D).
        in_channels: channels of the block's input.
        channels: channels of the block's output.
        stride: 1 or 2.
    """
    if stride == 1 and in_channels == channels:
        return None
    layers: list[nn.Module] = []
    if kind == "pool" and stride > 1:
        layers.append(nn.AvgPool2d(stride, stride, ceil_mode=True, count_include_pad=False))
        stride = 1
    layers += [nn.Conv2d(in_channels, channels, 1, stride, bias=False), nn.BatchNorm2d(channels)]
    return nn.Sequential(*layers)


# Block


class Bottleneck(nn.Module):
    """1×1 convolution, mixer, 1×1 convolution, gate, and the sum with the shortcut (He et al. 2016).

    (B, in_channels, H, W) → (B, 4 · channels, ⌈H / stride⌉, ⌈W / stride⌉); the stride is that of mixer and shortcut.

    Args:
        in_channels: channels of the input.
        channels: inner width, the mixer's channels.
        mixer: module between the 1×1 convolutions.
        gate: module on the residual branch's output, or None.
        shortcut: module that projects the input to the output's shape, or None.
        drop_path: probability that an image skips the residual branch in training.
        act: class of the activations.
    """

    def __init__(
        self,
        in_channels: int,
        channels: int,
        *,
        mixer: nn.Module,
        gate: nn.Module | None,
        shortcut: nn.Module | None,
        drop_path: float,
        act: type[nn.Module],
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
        y = lay_out_like(self.mixer(y), y)
        y = self.act(self.norm2(y))
        y = self.drop_path(self.gate(self.norm3(self.conv3(y))))
        # In place, since the gradient of a norm doesn't need its output; that of a gate may.
        y = y.add_(self.shortcut(x)) if isinstance(self.gate, nn.Identity) else y + self.shortcut(x)
        return self.act(y)


# Network


class ResNet(Backbone):
    """A bottleneck ResNet whose 3×3 convolutions are replaced by a mixer: (B, in_channels, H, W) → (B, num_classes).

    Args:
        mixer: factory of the module in the middle of a block (see `lambdanets.mixers.Mixer`).
        depth: a key of DEPTHS, such as 50, or the blocks per stage.
        width: multiplier of the stages' inner widths 64, 128, 256, 512, … and of the stem's 64.
        stem: "imagenet", "deep" (ResNet-D), "deep_strided" (ResNet-RS), "tiered" (timm's), "small" (3×3), "strided"
            (3×3 with stride 2) or "fine", see `lambdanets.models.stem`.
        shortcut: "conv" or "pool" (ResNet-D).
        layout: the blocks that use the mixer, such as "CCLL", see `parse_layout`.
        strides: stride of each stage's first block.
        gate: factory of the gate at the end of convolutional blocks, or None; or a sequence of these with one per
            stage. A mixer may have a gate of its own.
        image_size: (H, W) of the images; determines the feature size that each mixer gets.
        in_channels: channels of the images.
        num_classes: number of logits; 0 for none, see `reset_classifier`.
        zero_init: start the gain of each block's last batch norm at 0, so that blocks start as identities
            (Goyal et al. 2017).
        drop_path: probability of dropping the last block's residual branch; it grows linearly over the blocks from 0.
        dropout: probability of dropping a feature before the classifier.
        act: activation, "relu" or "silu".
        channels_last: keep maps as (B, H, W, C) in memory, which is faster for convolutions and lambda layers.
        global_pool: pooling before the classifier, see `lambdanets.models.backbone.GlobalPool`.
        grad_checkpointing: compute activations within blocks twice instead of saving them: memory for time.

    Attributes:
        feature_channels: channels of each stage's features.
        feature_strides: stride of each stage's features relative to the image.

    Raises:
        UserError: a depth, stem, shortcut, activation or layout is unknown, or the strides or gates are not as many as
            the stages.
    """

    def __init__(
        self,
        mixer: Mixer,
        *,
        depth: int | Sequence[int] = 50,
        width: float = 1.0,
        stem: str = "imagenet",
        shortcut: str = "conv",
        layout: Layout = "LLLL",
        strides: Sequence[int] = (1, 2, 2, 2),
        gate: Gate | Sequence[Gate | None] | None = None,
        image_size: tuple[int, int] = (224, 224),
        in_channels: int = 3,
        num_classes: int = 1000,
        zero_init: bool = True,
        drop_path: float = 0.0,
        dropout: float = 0.0,
        act: str = "relu",
        channels_last: bool = True,
        global_pool: str = "avg",
        grad_checkpointing: bool = False,
    ) -> None:
        super().__init__()
        blocks = parse_depth(depth)
        use_mixer = parse_layout(layout, blocks)
        if len(strides) != len(blocks) or not set(strides) <= {1, 2}:
            raise UserError(f"strides={list(strides)} must give 1 or 2 for each of the model's {len(blocks)} stages.")
        if act not in ACTIVATIONS:
            raise UserError(f"act={act} is not known; choose one of {', '.join(ACTIVATIONS)}.")
        if shortcut not in ("conv", "pool"):
            raise UserError(f"shortcut={shortcut} is not known; choose one of conv, pool.")
        self.channels_last = channels_last
        activation = ACTIVATIONS[act]
        gates = parse_gate(gate, len(blocks))
        mixer = copy.deepcopy(mixer)  # layers of one model may share parameters, those of two models must not
        mixer_gate: Gate | None = mixer.gate if isinstance(mixer, GatedMixer) else None
        last_block = max(sum(blocks) - 1, 1)
        drop_paths = iter(drop_path * block / last_block for block in range(sum(blocks)))

        channels = scale_width(64, width)
        self.stem = make_stem(stem, in_channels, channels, activation)
        reduction = STEM_STRIDES[stem]
        feature_size = strided_size(image_size, reduction)
        self.stages = nn.Sequential()
        self.feature_channels: list[int] = []
        self.feature_strides: list[int] = []
        for stage_index, stage_layout in enumerate(use_mixer):
            inner = scale_width(64 * 2**stage_index, width)
            stage = BlockSequence()
            for block_index, mixes in enumerate(stage_layout):
                stride = strides[stage_index] if block_index == 0 else 1
                make_mixer: Mixer = mixer if mixes else Conv
                make_gate = mixer_gate if mixes else gates[stage_index]
                stage.append(
                    Bottleneck(
                        channels,
                        inner,
                        mixer=make_mixer(inner, stride=stride, feature_size=feature_size),
                        gate=make_gate(EXPANSION * inner) if make_gate else None,
                        shortcut=make_shortcut(shortcut, channels, EXPANSION * inner, stride),
                        drop_path=next(drop_paths),
                        act=activation,
                    )
                )
                channels = EXPANSION * inner
                feature_size = strided_size(feature_size, stride)
                reduction *= stride
            self.stages.append(stage)
            self.feature_channels.append(channels)
            self.feature_strides.append(reduction)

        self.global_pool = GlobalPool(global_pool)
        self.dropout = nn.Dropout(dropout)
        self.classifier: nn.Module = nn.Linear(channels, max(num_classes, 1))
        self.reset_parameters(zero_init)
        self.set_features(self.describe_features(), in_chans=in_channels, num_features=channels)
        self.set_head(num_classes, global_pool)
        self.set_grad_checkpointing(grad_checkpointing)

    def reset_parameters(self, zero_init: bool) -> None:
        """Initialize convolutions (He et al. 2015) and the classifier; mixers and gates initialize themselves."""
        for module in self.modules():
            if isinstance(module, Bottleneck):
                skeleton = [module.conv1, module.conv3, *module.shortcut.modules()]
                if isinstance(module.mixer, Conv):
                    skeleton.append(module.mixer)
                for layer in skeleton:
                    init_conv(layer)
                if zero_init:
                    nn.init.zeros_(module.norm3.weight)
        init_stem(self.stem)
        assert isinstance(self.classifier, nn.Linear)
        nn.init.normal_(self.classifier.weight, std=0.01)
        nn.init.zeros_(self.classifier.bias)

    def remove_classifier(self) -> None:
        """Keep the features only, for networks with heads of their own."""
        self.dropout = nn.Dropout(0.0)
        self.reset_classifier(0)

    def describe_features(self) -> list[Feature]:
        """Return the map of the stem before its pooling or last convolution of stride 2, and those of the stages."""
        last = max(index for index, layer in enumerate(self.stem) if not isinstance(layer, STEM_POOLS))
        norm = next(layer for layer in reversed(self.stem) if isinstance(layer, nn.BatchNorm2d))
        reduction = 1
        for layer in self.stem[: last + 1]:
            reduction *= layer.stride[0] if isinstance(layer, nn.Conv2d) else 1
        stages = zip(self.feature_channels, self.feature_strides, strict=True)
        return [
            Feature(norm.num_features, reduction, f"stem.{last}"),
            *(Feature(channels, stride, f"stages.{index}") for index, (channels, stride) in enumerate(stages)),
        ]

    def feature_modules(self) -> list[tuple[str, nn.Module]]:
        return [
            *((f"stem.{name}", layer) for name, layer in self.stem.named_children()),
            *((f"stages.{name}", stage) for name, stage in self.stages.named_children()),
        ]

    def hidden_head(self, x: Tensor) -> Tensor:
        return self.dropout(x)

    def group_matcher(self, coarse: bool = False) -> dict[str, Any]:
        return {"stem": r"^stem", "blocks": r"^stages\.(\d+)" if coarse else r"^stages\.(\d+)\.(\d+)"}

    def features(self, x: Tensor) -> list[Tensor]:
        """Return each stage's output: (B, feature_channels[i], ⌈H / feature_strides[i]⌉, ⌈W / feature_strides[i]⌉)."""
        x = self.stem(lay_out(x, self.memory_format))
        outputs = []
        for stage in self.stages:
            x = stage(x)
            outputs.append(x)
        return outputs

    def forward_features(self, x: Tensor) -> Tensor:
        return self.features(x)[-1]


# Options


def parse_depth(depth: int | Sequence[int]) -> tuple[int, ...]:
    """Return the blocks per stage of a named depth such as 50, or those given.

    Raises:
        UserError: the depth has no name, or a stage has no blocks.
    """
    if isinstance(depth, int):
        if depth not in DEPTHS:
            raise UserError(
                f"depth={depth} is not a known ResNet; choose one of {', '.join(map(str, DEPTHS))} or give the blocks "
                "per stage, such as [1,1,1,1]."
            )
        return DEPTHS[depth]
    if not depth or min(depth) < 1:
        raise UserError(f"depth={list(depth)} must have at least one stage, and at least one block in each.")
    return tuple(depth)


def parse_layout(layout: Layout, blocks: Sequence[int]) -> list[list[bool]]:
    """Return for each stage and block whether it uses the mixer.

    Args:
        layout: one entry per stage: C (convolutions), L (the mixer), or the numbers, from 1, of the blocks with the
            mixer in a stage that is otherwise convolutional. "CCLL" is short for ["C", "C", "L", "L"] (Table 12).
        blocks: blocks per stage.

    Raises:
        UserError: the number of stages differs, a letter is unknown, or a stage doesn't have one of the blocks.
    """
    if len(layout) != len(blocks):
        raise UserError(
            f"layout={layout} has {len(layout)} entries, but the model has {len(blocks)} stages: give one entry per "
            "stage."
        )
    return [parse_stage(entry, count) for entry, count in zip(layout, blocks, strict=True)]


def parse_stage(entry: str | Sequence[int], blocks: int) -> list[bool]:
    if isinstance(entry, str):
        if entry not in ("C", "L"):
            raise UserError(
                f"layout has '{entry}' for a stage; use C (convolutions), L (the mixer) or a list of block numbers."
            )
        return [entry == "L"] * blocks
    if missing := sorted(set(entry) - set(range(1, blocks + 1))):
        raise UserError(f"layout names blocks {missing} of a stage that has blocks 1 to {blocks}.")
    return [block in entry for block in range(1, blocks + 1)]


def parse_gate(gate: Gate | Sequence[Gate | None] | None, stages: int) -> list[Gate | None]:
    """Return the gate of each stage's convolutional blocks.

    Raises:
        UserError: a sequence of gates doesn't have one per stage.
    """
    if not isinstance(gate, Sequence):
        return [gate] * stages
    if len(gate) != stages:
        raise UserError(
            f"gate has {len(gate)} entries, but the model has {stages} stages: give one for all stages, or one entry "
            "(a gate or null) per stage."
        )
    return list(gate)


def scale_width(channels: int, width: float) -> int:
    """Multiply channels by the width, rounded to a multiple of 8."""
    return max(8, round(channels * width / 8) * 8)


def strided_size(size: tuple[int, int], stride: int) -> tuple[int, int]:
    """Return the feature size behind a strided layer; every layer of the network rounds up."""
    height, width = size
    return -(-height // stride), -(-width // stride)
