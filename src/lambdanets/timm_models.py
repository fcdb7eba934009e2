"""Registration of our LambdaResNets with timm, by importing this module: `timm.create_model("lambda_resnet50")`.

timm's own `lambda_resnet26t` and its variants keep their names. We publish no weights, so that `pretrained=True` is an
error; `lambdanets.create(pretrained=…)` starts from your own.
"""

from typing import Any

from timm.models import register_model
from torch import nn

from lambdanets.errors import UserError
from lambdanets.hub.create import create

NAMES = tuple(f"lambda_resnet{depth}" for depth in (50, 101, 152, 200, 270, 350, 420))
MEAN, STD = (0.485, 0.456, 0.406), (0.229, 0.224, 0.225)


def create_network(
    name: str,
    *,
    pretrained: bool = False,
    num_classes: int = 1000,
    in_chans: int = 3,
    img_size: int | tuple[int, int] = 224,
    drop_rate: float = 0.0,
    drop_path_rate: float = 0.0,
    mixer: str = "lambda",
    **unknown: Any,
) -> nn.Module:
    """Create a LambdaResNet with the arguments of `timm.create_model`.

    Args:
        name: one of NAMES.
        pretrained: must be False, since there are no published weights.
        num_classes: number of logits.
        in_chans: channels of the images.
        img_size: H and W of the images, or (H, W).
        drop_rate: probability of dropping a feature before the classifier.
        drop_path_rate: probability of dropping the last block's residual branch.
        mixer: name of the mixer, a choice of configs/mixer.
        **unknown: further arguments of timm's; they must be unset.

    Raises:
        UserError: pretrained weights or unsupported arguments are requested.
    """
    if pretrained:
        raise UserError(f"{name} has no published weights: pass your own to lambdanets.create(pretrained=…).")
    unsupported = [key for key, value in unknown.items() if value and not key.startswith("pretrained_cfg")]
    if unsupported:
        raise UserError(
            f"{name} doesn't support {', '.join(unsupported)}: leave it out; features(x) returns the features of all "
            "stages."
        )
    model: Any = create(
        name,
        mixer=mixer,
        image_size=img_size,
        in_channels=in_chans,
        num_classes=num_classes,
        overrides=[f"model.dropout={drop_rate}", f"model.drop_path={drop_path_rate}"],
    )
    height, width = (img_size, img_size) if isinstance(img_size, int) else img_size
    model.pretrained_cfg = model.default_cfg = {
        "architecture": name,
        "num_classes": num_classes,
        "input_size": (in_chans, height, width),
        "mean": MEAN,
        "std": STD,
        "interpolation": "bicubic",
        "crop_pct": 0.95,
        "first_conv": "stem.0",
        "classifier": "classifier",
    }
    return model


def make_entry_point(name: str) -> Any:
    """Make a model's entry point for timm's registry."""

    def make(pretrained: bool = False, **options: Any) -> nn.Module:
        return create_network(name, pretrained=pretrained, **options)

    make.__name__ = name
    make.__module__ = __name__
    make.__doc__ = f"{name} (Bello 2021, section 5); arguments as `lambdanets.timm_models.create_network`."
    return make


for registered in NAMES:
    globals()[registered] = register_model(make_entry_point(registered))
