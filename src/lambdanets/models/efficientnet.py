"""EfficientNets (Tan and Le 2019), the baseline of the speed-accuracy comparison."""

from typing import Any

from torch import Tensor, nn
from torchvision import models
from torchvision.models.efficientnet import EfficientNet as TorchvisionEfficientNet
from torchvision.ops import Conv2dNormActivation

from lambdanets.errors import UserError
from lambdanets.mixers import Mixer
from lambdanets.models.backbone import Backbone, BlockSequence, Feature, GlobalPool

VARIANTS = ("b0", "b1", "b2", "b3", "b4", "b5", "b6", "b7")


class EfficientNet(Backbone):
    """torchvision's EfficientNet with the skeleton's interface: (B, in_channels, H, W) → (B, num_classes).

    Args:
        mixer: ignored; the network has none.
        variant: b0 to b7.
        image_size: ignored; the network takes any.
        in_channels: channels of the images.
        num_classes: number of logits; 0 for none, see `reset_classifier`.
        dropout: probability of dropping a feature before the classifier.
        drop_path: probability of dropping the last block's residual branch; it grows linearly over the blocks.
        global_pool: pooling before the classifier, see `lambdanets.models.backbone.GlobalPool`.
        grad_checkpointing: compute activations within blocks twice instead of saving them: memory for time.

    Raises:
        UserError: the variant is unknown.
    """

    classifier_name = "classifier.1"

    def __init__(
        self,
        mixer: Mixer | None = None,
        *,
        variant: str = "b0",
        image_size: tuple[int, int] = (224, 224),
        in_channels: int = 3,
        num_classes: int = 1000,
        dropout: float = 0.2,
        drop_path: float = 0.2,
        global_pool: str = "avg",
        grad_checkpointing: bool = False,
    ) -> None:
        super().__init__()
        if variant not in VARIANTS:
            raise UserError(f"variant={variant} of EfficientNet is not known; choose one of {', '.join(VARIANTS)}.")
        network: TorchvisionEfficientNet = models.get_model(
            f"efficientnet_{variant}", num_classes=max(num_classes, 1), dropout=dropout, stochastic_depth_prob=drop_path
        )
        first = network.features[0][0]
        if in_channels != first.in_channels:
            network.features[0][0] = nn.Conv2d(in_channels, first.out_channels, 3, 2, padding=1, bias=False)
        stages = (part if isinstance(part, Conv2dNormActivation) else BlockSequence(*part) for part in network.features)
        self.features = nn.Sequential(*stages)
        self.global_pool = GlobalPool(global_pool)
        self.classifier: nn.Sequential = network.classifier
        # The last stage of each stride; the first and the last part are convolutions.
        features = [
            Feature(network.features[stage][-1].out_channels, reduction, f"features.{stage}")
            for stage, reduction in ((1, 2), (2, 4), (3, 8), (5, 16), (7, 32))
        ]
        self.set_features(features, in_chans=in_channels, num_features=network.features[-1].out_channels)
        self.set_head(num_classes, global_pool)
        self.set_grad_checkpointing(grad_checkpointing)

    def feature_modules(self) -> list[tuple[str, nn.Module]]:
        return [(f"features.{name}", stage) for name, stage in self.features.named_children()]

    def forward_features(self, x: Tensor) -> Tensor:
        return self.features(x)

    def hidden_head(self, x: Tensor) -> Tensor:
        for layer in list(self.classifier)[:-1]:
            x = layer(x)
        return x

    def classify(self, x: Tensor) -> Tensor:
        return self.classifier(x)

    def group_matcher(self, coarse: bool = False) -> dict[str, Any]:
        blocks = r"^features\.(\d+)" if coarse else r"^features\.(\d+)\.(\d+)"
        return {"stem": r"^features\.0\.", "blocks": blocks}
