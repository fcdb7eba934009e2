"""The ResNet skeleton that every mixer shares, a detector on it, and a baseline without a mixer."""

from lambdanets.models.efficientnet import EfficientNet
from lambdanets.models.interface import CompositeNetwork
from lambdanets.models.mask_rcnn import MaskRCNN
from lambdanets.models.resnet import ResNet

__all__ = ["CompositeNetwork", "EfficientNet", "MaskRCNN", "ResNet"]
