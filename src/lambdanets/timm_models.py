"""Importing this registers our LambdaResNets with timm: `timm.create_model("lambda_resnet50")`.

timm's own `lambda_resnet26t` and its sisters keep their names. There are no published weights of ours, so that
`pretrained=True` is refused; `lambdanets.create` starts from weights of one's own.
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
    """A LambdaResNet, asked for in timm's words.

    Raises:
        UserError: weights are asked for, or something that this network has not.
    """
    if pretrained:
        raise UserError(f"There are no published weights of {name}: give your own to lambdanets.create(pretrained=…).")
    asked = {key: value for key, value in unknown.items() if value and not key.startswith("pretrained_cfg")}
    if asked:
        raise UserError(f"{name} has no {', '.join(asked)}: leave it out; features(x) gives those of all stages.")
    made: Any = create(
        name,
        mixer=mixer,
        image_size=img_size,
        in_channels=in_chans,
        num_classes=num_classes,
        overrides=[f"model.dropout={drop_rate}", f"model.drop_path={drop_path_rate}"],
    )
    height, width = (img_size, img_size) if isinstance(img_size, int) else img_size
    made.pretrained_cfg = made.default_cfg = {
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
    return made


def make_entry_point(name: str) -> Any:
    """Timm's entry point of that name."""

    def make(pretrained: bool = False, **options: Any) -> nn.Module:
        return create_network(name, pretrained=pretrained, **options)

    make.__name__ = name
    make.__module__ = __name__
    make.__doc__ = f"{name} (Bello 2021, section 5); arguments as `lambdanets.timm_models.create_network`."
    return make


for registered in NAMES:
    globals()[registered] = register_model(make_entry_point(registered))
