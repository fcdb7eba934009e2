"""The ResNet skeleton that every mixer shares, MobileNets, a detector, and a baseline without a mixer."""

from lambdanets.models.efficientnet import EfficientNet
from lambdanets.models.interface import CompositeNetwork
from lambdanets.models.mask_rcnn import MaskRCNN
from lambdanets.models.mobilenet import MobileNet
from lambdanets.models.resnet import ResNet

__all__ = ["CompositeNetwork", "EfficientNet", "MaskRCNN", "MobileNet", "ResNet"]
