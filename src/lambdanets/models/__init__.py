"""The ResNet skeleton that every mixer shares."""

from lambdanets.models.resnet import ResNet

__all__ = ["ResNet"]
