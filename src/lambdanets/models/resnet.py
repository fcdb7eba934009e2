"""The ResNet that every mixer shares."""

import copy
from collections.abc import Sequence

import torch
from torch import Tensor, nn

from lambdanets.errors import UserError
from lambdanets.mixers import Conv, Gate, Mixer
from lambdanets.models.bottleneck import EXPANSION, Bottleneck, make_shortcut
from lambdanets.models.depths import blocks_per_stage
from lambdanets.models.layout import mixer_blocks
from lambdanets.models.stem import STRIDES, make_stem

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
        blocks = blocks_per_stage(depth)
        mixer = copy.deepcopy(mixer)  # what a factory shares between its layers, it shares within this model only
        uses_mixer = mixer_blocks(layout, blocks)
        if len(strides) != len(blocks) or not set(strides) <= {1, 2}:
            raise UserError(f"strides={list(strides)} must give 1 or 2 for each of the model's {len(blocks)} stages.")
        if act not in ACTIVATIONS:
            raise UserError(f"act={act} is not known; choose one of {', '.join(ACTIVATIONS)}.")
        if shortcut not in ("conv", "pool"):
            raise UserError(f"shortcut={shortcut} is not known; choose one of conv, pool.")

        channels = scaled(64, width)
        self.stem = make_stem(stem, in_channels, channels, ACTIVATIONS[act])
        reduction = STRIDES[stem]
        feature_size = divided(image_size, reduction)
        total = sum(blocks)
        drop_paths = iter(drop_path * number / max(total - 1, 1) for number in range(total))

        self.stages = nn.ModuleList()
        self.feature_channels: list[int] = []
        self.feature_strides: list[int] = []
        for index, stage_mixers in enumerate(uses_mixer):
            inner = scaled(64 * 2**index, width)
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
                feature_size = divided(feature_size, stride)
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


def divided(size: tuple[int, int], stride: int) -> tuple[int, int]:
    """The feature size behind a layer of that stride: every strided layer here rounds up."""
    height, width = size
    return -(-height // stride), -(-width // stride)


def scaled(channels: int, width: float) -> int:
    """Channels times the width multiplier, as the nearest multiple of 8."""
    return max(8, round(channels * width / 8) * 8)


def init_conv(layer: nn.Module) -> None:
    if isinstance(layer, nn.Conv2d):
        nn.init.kaiming_normal_(layer.weight, mode="fan_out", nonlinearity="relu")
