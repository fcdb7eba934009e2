"""Batch norm that no longer learns, as detectors keep that of a backbone when batches are small."""

from torch import nn
from typing_extensions import Self, override


class FrozenBatchNorm2d(nn.BatchNorm2d):
    """Batch norm with its statistics, gain and bias as they are, in training too: (B, C, H, W) → (B, C, H, W)."""

    @override
    def train(self, mode: bool = True) -> Self:
        return super().train(False)


def freeze_batch_norms(model: nn.Module) -> nn.Module:
    """The model with its batch norms frozen; parameters and names stay."""
    for module in model.modules():
        if isinstance(module, nn.BatchNorm2d):
            module.__class__ = FrozenBatchNorm2d
            module.requires_grad_(False).eval()
    return model
