"""EfficientNets (Tan and Le 2019), the baseline of the speed-accuracy comparison."""

from torch import Tensor, nn
from torchvision import models
from torchvision.models.efficientnet import EfficientNet as TorchvisionEfficientNet

from lambdanets.errors import UserError
from lambdanets.mixers import Mixer

VARIANTS = ("b0", "b1", "b2", "b3", "b4", "b5", "b6", "b7")


class EfficientNet(nn.Module):
    """torchvision's EfficientNet with the skeleton's interface: (B, in_channels, H, W) → (B, num_classes).

    Args:
        mixer: ignored; the network has none.
        variant: b0 to b7.
        image_size: ignored; the network takes any.
        in_channels: channels of the images.
        num_classes: number of logits.
        dropout: probability of dropping a feature before the classifier.
        drop_path: probability of dropping the last block's residual branch; it grows linearly over the blocks.

    Raises:
        UserError: the variant is unknown.
    """

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
    ) -> None:
        super().__init__()
        if variant not in VARIANTS:
            raise UserError(f"variant={variant} of EfficientNet is not known; choose one of {', '.join(VARIANTS)}.")
        network: TorchvisionEfficientNet = models.get_model(
            f"efficientnet_{variant}", num_classes=num_classes, dropout=dropout, stochastic_depth_prob=drop_path
        )
        first = network.features[0][0]
        if in_channels != first.in_channels:
            network.features[0][0] = nn.Conv2d(in_channels, first.out_channels, 3, 2, padding=1, bias=False)
        self.features, self.pool, self.classifier = network.features, network.avgpool, network.classifier

    def forward(self, x: Tensor) -> Tensor:
        return self.classifier(self.pool(self.features(x)).flatten(1))
