"""LambdaNetworks as a research template: swappable mixers on one ResNet skeleton.

    from lambdanets import LambdaLayer

    layer = LambdaLayer(256, scope=23)
    y = layer(x)  # (B, 256, H, W) → (B, 256, H, W)

What stands here is imported when it is first used, so that the command line answers without loading torch.
"""

from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from lambdanets.hub.create import create
    from lambdanets.hub.load import load
    from lambdanets.hub.trained_model import Model
    from lambdanets.mixers import LambdaConv, LambdaLayer
    from lambdanets.models import MaskRCNN, ResNet

__version__ = "0.1.0"
__all__ = ["LambdaConv", "LambdaLayer", "MaskRCNN", "Model", "ResNet", "create", "load"]

HOMES = {
    "LambdaConv": "mixers",
    "LambdaLayer": "mixers",
    "MaskRCNN": "models",
    "Model": "jobs.model",
    "ResNet": "models",
    "create": "jobs.create",
    "load": "jobs.load",
}


def __getattr__(name: str) -> Any:
    if name in HOMES:
        return getattr(import_module(f"{__name__}.{HOMES[name]}"), name)
    raise AttributeError(f"module '{__name__}' has no attribute '{name}'")


def __dir__() -> list[str]:
    return [*__all__, "__version__"]
