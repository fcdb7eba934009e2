"""LambdaNetworks as a research template: swappable mixers on one ResNet skeleton.

    from lambdanets import LambdaLayer

    layer = LambdaLayer(256, scope=23)
    y = layer(x)  # (B, 256, H, W) → (B, 256, H, W)

The names below are imported on first use, so that the command line starts without loading torch.
"""

from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from lambdanets.hub.create import create, list_models
    from lambdanets.hub.load import load
    from lambdanets.hub.trained_model import TrainedModel
    from lambdanets.hub.trained_model import TrainedModel as Model
    from lambdanets.inference.optimize import optimize_for_inference
    from lambdanets.mixers import LambdaConv, LambdaLayer
    from lambdanets.models import MaskRCNN, ResNet

__version__ = "0.1.0"
# Model is the former name of TrainedModel.
__all__ = [
    "LambdaConv",
    "LambdaLayer",
    "MaskRCNN",
    "Model",
    "ResNet",
    "TrainedModel",
    "create",
    "list_models",
    "load",
    "optimize_for_inference",
]

MODULES = {
    "LambdaConv": "mixers",
    "LambdaLayer": "mixers",
    "MaskRCNN": "models",
    "ResNet": "models",
    "TrainedModel": "hub.trained_model",
    "create": "hub.create",
    "list_models": "hub.create",
    "load": "hub.load",
    "optimize_for_inference": "inference.optimize",
}


def __getattr__(name: str) -> Any:
    if name == "Model":
        name = "TrainedModel"
    if name in MODULES:
        return getattr(import_module(f"{__name__}.{MODULES[name]}"), name)
    raise AttributeError(f"module '{__name__}' has no attribute '{name}'")


def __dir__() -> list[str]:
    return [*__all__, "__version__"]
