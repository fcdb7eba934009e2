"""MobileNets (Sandler et al. 2018, Howard et al. 2019) with a mixer in place of some depthwise convolutions."""

import copy
from collections.abc import Callable, Sequence
from functools import partial
from typing import Any, TypeAlias

import torch.fx
from torch import Tensor, nn
from torchvision import models
from torchvision.models import mobilenetv2, mobilenetv3
from torchvision.ops import Conv2dNormActivation, SqueezeExcitation

from lambdanets.errors import UserError
from lambdanets.mixers import Conv, Gate, GatedMixer, Mixer
from lambdanets.mixers.interface import lay_out, lay_out_like
from lambdanets.models.backbone import Backbone, BlockSequence, Feature, GlobalPool
from lambdanets.models.resnet import scale_width, strided_size
from lambdanets.models.stem import init_conv

for traced in ("lay_out", "lay_out_like"):
    torch.fx.wrap(traced)

VARIANTS = ("v2", "v3_large")
InvertedResidual: TypeAlias = mobilenetv2.InvertedResidual | mobilenetv3.InvertedResidual


class InvertedBottleneck(nn.Module):
    """An inverted bottleneck whose depthwise convolution is replaced by a mixer.

    1×1 convolution, mixer, squeeze-and-excitation where the block has it, 1×1 convolution, gate, and the sum with the
    input where the shapes are equal. (B, in_channels, H, W) → (B, out_channels, ⌈H / stride⌉, ⌈W / stride⌉), with
    channels, stride, norms and activations of torchvision's block.

    Args:
        block: torchvision's block, which stays as it is.
        mixer: factory of the mixer, see `lambdanets.mixers.Mixer`.
        gate: factory of the gate at the end of the residual branch, or None.
        expansion: expanded channels / input channels; None keeps the block's. A block without an expanding convolution
            stays without it.
        feature_size: (H, W) of the input.

    Raises:
        UserError: the expansion leaves no channels, or the mixer can't have them.
    """

    def __init__(
        self,
        block: InvertedResidual,
        mixer: Mixer,
        *,
        gate: Gate | None,
        expansion: float | None,
        feature_size: tuple[int, int],
    ) -> None:
        super().__init__()
        expand, depthwise, squeeze = split_block(block)
        norm = partial(nn.BatchNorm2d, eps=depthwise[1].eps, momentum=depthwise[1].momentum)
        conv_norm_act: Callable[..., nn.Module] = partial(Conv2dNormActivation, kernel_size=1, norm_layer=norm)
        act = type(depthwise[2])
        channels = old_channels = depthwise[0].in_channels
        self.expand: nn.Module = nn.Identity()
        if expand is not None:
            in_channels = expand[0].in_channels
            if expansion is not None:
                channels = round(expansion * in_channels)
                if channels < 1:
                    raise UserError(f"expansion={expansion:g} leaves no channels of {in_channels}: enlarge it.")
            self.expand = conv_norm_act(in_channels, channels, activation_layer=act)
        self.mixer = mixer(channels, stride=depthwise[0].stride[0], feature_size=feature_size)
        self.norm = norm(channels)
        self.act = act(inplace=True)
        self.se: nn.Module = nn.Identity()
        if squeeze is not None:
            hidden = scale_width(squeeze.fc1.out_channels, channels / old_channels)
            self.se = SqueezeExcitation(channels, hidden, scale_activation=type(squeeze.scale_activation))
        self.project = conv_norm_act(channels, block.out_channels, activation_layer=None)
        self.gate: nn.Module = gate(block.out_channels) if gate else nn.Identity()
        self.residual = block.use_res_connect
        self.reset_parameters()

    def reset_parameters(self) -> None:
        """Initialize the convolutions as torchvision does; mixers and gates initialize themselves."""
        for part in (self.expand, self.se, self.project):
            for layer in part.modules():
                init_conv(layer)
                if isinstance(layer, nn.Conv2d) and layer.bias is not None:
                    nn.init.zeros_(layer.bias)
        if isinstance(self.mixer, Conv):
            init_conv(self.mixer)

    def forward(self, x: Tensor) -> Tensor:
        y = self.expand(x)
        y = lay_out_like(self.mixer(y), y)
        y = self.gate(self.project(self.se(self.act(self.norm(y)))))
        return x + y if self.residual else y


class MobileNet(Backbone):
    """torchvision's MobileNet with a mixer in some inverted bottlenecks: (B, in_channels, H, W) → (B, num_classes).

    Without such blocks it is torchvision's network, with the same names of weights.

    Args:
        mixer: factory of the module in place of a depthwise convolution (see `lambdanets.mixers.Mixer`), with as many
            channels as the block's expanding convolution has. A mixer with a gate, such as `SE`, has it at the end of
            the residual branch.
        variant: "v2" (17 inverted bottlenecks) or "v3_large" (15).
        blocks: numbers, from 1, of the inverted bottlenecks with the mixer.
        expansion: expanded channels / input channels of the blocks with the mixer; None keeps those of the network.
        width: multiplier of all channels, which are rounded to multiples of 8.
        image_size: (H, W) of the images; determines the feature size that each mixer gets.
        in_channels: channels of the images.
        num_classes: number of logits; 0 for none, see `reset_classifier`.
        dropout: probability of dropping a feature before the classifier.
        channels_last: keep maps as (B, H, W, C) in memory.
        global_pool: pooling before the classifier, see `lambdanets.models.backbone.GlobalPool`.
        grad_checkpointing: compute activations within blocks twice instead of saving them: memory for time.

    Attributes:
        feature_sizes: (H, W) of each inverted bottleneck's output, by its number.

    Raises:
        UserError: the variant is unknown, the network doesn't have one of the blocks, or an expansion is too small.
    """

    def __init__(
        self,
        mixer: Mixer | None = None,
        *,
        variant: str = "v2",
        blocks: Sequence[int] = (),
        expansion: float | None = None,
        width: float = 1.0,
        image_size: tuple[int, int] = (224, 224),
        in_channels: int = 3,
        num_classes: int = 1000,
        dropout: float = 0.2,
        channels_last: bool = True,
        global_pool: str = "avg",
        grad_checkpointing: bool = False,
    ) -> None:
        super().__init__()
        if variant not in VARIANTS:
            raise UserError(f"variant={variant} of MobileNet is not known; choose one of {', '.join(VARIANTS)}.")
        network = models.get_model(
            f"mobilenet_{variant}", width_mult=width, num_classes=max(num_classes, 1), dropout=dropout
        )
        self.channels_last = channels_last
        self.features = BlockSequence(*network.features)
        self.global_pool = GlobalPool(global_pool)
        self.classifier: nn.Sequential = network.classifier
        self.classifier_name = f"classifier.{len(self.classifier) - 1}"
        self.has_hidden_head = variant == "v3_large"
        layers: Any = self.features
        first = layers[0][0]
        if in_channels != first.in_channels:
            layers[0][0] = nn.Conv2d(in_channels, first.out_channels, 3, 2, padding=1, bias=False)
            init_conv(layers[0][0])
        last = len(layers) - 2
        if missing := sorted(set(blocks) - set(range(1, last + 1))):
            raise UserError(f"blocks={list(blocks)} names {missing}, but MobileNet-{variant} has blocks 1 to {last}.")
        if blocks and mixer is None:
            raise UserError(f"blocks={list(blocks)} of a MobileNet need a mixer, and none was given.")
        mixer = copy.deepcopy(mixer)  # layers of one model may share parameters, those of two models must not
        gate: Gate | None = mixer.gate if isinstance(mixer, GatedMixer) else None
        feature_size = strided_size(image_size, 2)
        self.feature_sizes: dict[int, tuple[int, int]] = {}
        reduction, features = 2, dict[int, Feature]()
        for number in range(1, last + 1):
            block = layers[number]
            if number in blocks and mixer is not None:
                layers[number] = InvertedBottleneck(
                    block, mixer, gate=gate, expansion=expansion, feature_size=feature_size
                )
            stride = split_block(block)[1][0].stride[0]
            feature_size = strided_size(feature_size, stride)
            self.feature_sizes[number] = feature_size
            reduction *= stride
            features[reduction] = Feature(block.out_channels, reduction, f"features.{number}")  # the last of them
        self.set_features([*features.values()], in_chans=in_channels, num_features=layers[-1].out_channels)
        self.set_head(num_classes, global_pool)
        self.set_grad_checkpointing(grad_checkpointing)

    def mixed_blocks(self) -> dict[int, InvertedBottleneck]:
        """Return the blocks with the mixer by their numbers."""
        return {n: block for n, block in enumerate(self.features) if isinstance(block, InvertedBottleneck)}

    def feature_modules(self) -> list[tuple[str, nn.Module]]:
        return [(f"features.{name}", block) for name, block in self.features.named_children()]

    def forward_features(self, x: Tensor) -> Tensor:
        return self.features(lay_out(x, self.memory_format))

    def hidden_head(self, x: Tensor) -> Tensor:
        for layer in list(self.classifier)[:-1]:
            x = layer(x)
        return x

    def classify(self, x: Tensor) -> Tensor:
        return self.classifier(x)

    def remove_hidden_head(self) -> None:
        self.classifier, self.classifier_name = nn.Sequential(nn.Identity()), "classifier.0"
        self.has_hidden_head = False

    def group_matcher(self, coarse: bool = False) -> dict[str, Any]:
        return {"stem": r"^features\.0\.", "blocks": r"^features\.(\d+)"}


def split_block(
    block: InvertedResidual,
) -> tuple[Conv2dNormActivation | None, Conv2dNormActivation, SqueezeExcitation | None]:
    """Return the layers of torchvision's block: the expanding one or None, the depthwise one, and its SE or None."""
    layers = [*(block.conv if isinstance(block, mobilenetv2.InvertedResidual) else block.block)]
    depthwise = next(i for i, layer in enumerate(layers) if layer[0].groups > 1)
    squeeze = next((layer for layer in layers if isinstance(layer, SqueezeExcitation)), None)
    return layers[0] if depthwise else None, layers[depthwise], squeeze
