"""LambdaNetworks as a research template: swappable mixers on one ResNet skeleton."""

__version__ = "0.1.0"
