"""Registration of our LambdaResNets with timm, by importing this module: `timm.create_model("lambda_resnet50")`.

timm's own `lambda_resnet26t` and its variants keep their names. No weights are published for the names of this module:
`pretrained=True` is an error unless `pretrained_cfg_overlay={"file": …}` names some; `lambdanets.create(pretrained=…)`
starts from your own.
"""

from functools import partial
from math import ceil
from typing import Any

import torch
from timm.models import build_model_with_cfg, generate_default_cfgs, register_model, register_notrace_module
from timm.models._builder import resolve_pretrained_cfg
from torch import nn

from lambdanets import mixers
from lambdanets.errors import UserError
from lambdanets.hub.create import create
from lambdanets.models import ResNet

NAMES = tuple(f"lambda_resnet{depth}" for depth in (50, 101, 152, 200, 270, 350, 420))
STRIDE = 32
# timm's tracing for torch.fx takes mixers as one node; their control flow depends on shapes.
for layer in (getattr(mixers, exported) for exported in mixers.__all__):
    if isinstance(layer, type) and issubclass(layer, nn.Module):
        register_notrace_module(layer)


def describe_model(channels: int = 3, size: tuple[int, int] = (224, 224)) -> dict[str, Any]:
    """Return timm's config of a model for images of a size."""
    return {
        "num_classes": 1000,
        "input_size": (channels, *size),
        "pool_size": tuple(ceil(side / STRIDE) for side in size),
        "mean": (0.485, 0.456, 0.406),
        "std": (0.229, 0.224, 0.225),
        "interpolation": "bicubic",
        "crop_pct": 0.95,
        "first_conv": "stem.0",
        "classifier": "classifier",
    }


default_cfgs = generate_default_cfgs({name: describe_model() for name in NAMES})


def create_network(
    name: str,
    *,
    pretrained: bool = False,
    in_chans: int = 3,
    img_size: int | tuple[int, int] = 224,
    pretrained_cfg: Any = None,
    pretrained_cfg_overlay: dict[str, Any] | None = None,
    **options: Any,
) -> nn.Module:
    """Create a LambdaResNet with the arguments of `timm.create_model`.

    Args:
        name: one of NAMES.
        pretrained: load the weights that pretrained_cfg names; there are no published ones.
        in_chans: channels of the images.
        img_size: H and W of the images, or (H, W).
        pretrained_cfg: timm's config of the model.
        pretrained_cfg_overlay: entries of it that differ.
        **options: arguments of `make_network`, or of timm, such as features_only and out_indices.

    Raises:
        UserError: weights are requested, but there are none, or an option has a value that isn't supported.
        TypeError: an argument is unknown.
    """
    height, width = (img_size, img_size) if isinstance(img_size, int) else img_size
    described = describe_model(in_chans, (height, width))
    overlay = {key: described[key] for key in ("input_size", "pool_size")} | (pretrained_cfg_overlay or {})
    if pretrained and not resolve_pretrained_cfg(name, pretrained_cfg, overlay).has_weights:
        raise UserError(f"{name} has no published weights: pass your own to lambdanets.create(pretrained=…).")
    return build_model_with_cfg(
        partial(make_network, name, img_size=(height, width)),
        name,
        pretrained,
        pretrained_cfg=pretrained_cfg,
        pretrained_cfg_overlay=overlay,
        feature_cfg={"flatten_sequential": True},
        in_chans=in_chans,
        **options,
    )


def make_network(
    name: str,
    *,
    img_size: tuple[int, int],
    num_classes: int = 1000,
    in_chans: int = 3,
    global_pool: str = "avg",
    drop_rate: float = 0.0,
    drop_path_rate: float = 0.0,
    output_stride: int = STRIDE,
    mixer: str = "lambda",
    device: Any = None,
    dtype: torch.dtype | None = None,
) -> ResNet:
    """Make a LambdaResNet with timm's names of arguments.

    Args:
        name: one of NAMES.
        img_size: (H, W) of the images.
        num_classes: number of logits; 0 for pooled features.
        in_chans: channels of the images.
        global_pool: "avg", "max", "avgmax", "catavgmax" or "".
        drop_rate: probability of dropping a feature before the classifier.
        drop_path_rate: probability of dropping the last block's residual branch.
        output_stride: 32.
        mixer: name of the mixer, a choice of configs/mixer.
        device: of the weights.
        dtype: of the weights.

    Raises:
        UserError: the stride is another.
    """
    if output_stride != STRIDE:
        raise UserError(
            f"output_stride={output_stride} is not supported, since lambda layers have no dilation: use "
            f'lambdanets.create("{name}", overrides=["model.strides=[1,2,2,1]"]) for features of stride 16.'
        )
    with torch.device(device) if device is not None else torch.device(torch.get_default_device()):
        network = create(
            name,
            mixer=mixer,
            image_size=img_size,
            in_channels=in_chans,
            num_classes=num_classes,
            overrides=[
                f"model.dropout={drop_rate}",
                f"model.drop_path={drop_path_rate}",
                f"++model.global_pool='{global_pool}'",
            ],
        )
    assert isinstance(network, ResNet)
    return network if dtype is None else network.to(dtype)


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
