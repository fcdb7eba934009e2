"""The ResNet skeleton that every mixer shares, and a baseline without one."""

from lambdanets.models.efficientnet import EfficientNet
from lambdanets.models.resnet import ResNet

__all__ = ["EfficientNet", "ResNet"]
