"""Data modules, one per file, and the code that they share."""

from lambdanets.data.augmentation import Augmentation
from lambdanets.data.cifar10 import CIFAR10
from lambdanets.data.cifar100 import CIFAR100
from lambdanets.data.coco import Coco
from lambdanets.data.digits import Digits
from lambdanets.data.fashion_mnist import FashionMNIST
from lambdanets.data.imagefolder import ImageFolder
from lambdanets.data.imagenet import ImageNet
from lambdanets.data.module import ImageData
from lambdanets.data.packed import Packed
from lambdanets.data.pathfinder import Pathfinder
from lambdanets.data.random_images import RandomImages

__all__ = [
    "CIFAR10",
    "CIFAR100",
    "Augmentation",
    "Coco",
    "Digits",
    "FashionMNIST",
    "ImageData",
    "ImageFolder",
    "ImageNet",
    "Packed",
    "Pathfinder",
    "RandomImages",
]
