"""timm's lambda networks, converted to ours."""

import re
from functools import partial
from typing import Any

from torch import Tensor, nn

from lambdanets.errors import UserError
from lambdanets.mixers import Mixer
from lambdanets.models import ResNet
from lambdanets.peers.layers import BiasedLambda, convert_timm_weights

TIMM_NETWORKS: dict[str, dict[str, Any]] = {
    "lambda_resnet26t": {"depth": 26, "layout": ["C", "C", [2], "L"], "scope": 9},
    "lambda_resnet26rpt_256": {"depth": 26, "layout": ["C", "C", [2], "L"], "scope": "global"},
    "lambda_resnet50ts": {"depth": 50, "layout": ["C", [4], [2, 4, 6], [2]], "scope": 9, "act": "silu"},
}
# Patterns of timm's parameter names, and our names.
NAMES = (
    (r"^stem\.conv(\d)\.(conv|bn)\.", lambda m: f"stem.{3 * (int(m[1]) - 1) + (m[2] == 'bn')}."),
    (r"^head\.fc\.", lambda m: "classifier."),
    (r"\.shortcut\.conv\.", lambda m: ".shortcut.0."),
    (r"\.shortcut\.bn\.", lambda m: ".shortcut.1."),
    (r"\.conv1_1x1\.conv\.", lambda m: ".conv1."),
    (r"\.conv1_1x1\.bn\.", lambda m: ".norm1."),
    (r"\.conv2_kxk\.conv\.", lambda m: ".mixer."),
    (r"\.conv2_kxk\.bn\.", lambda m: ".norm2."),
    (r"\.post_attn\.", lambda m: ".norm2."),
    (r"\.conv3_1x1\.conv\.", lambda m: ".conv3."),
    (r"\.conv3_1x1\.bn\.", lambda m: ".norm3."),
)


def timm_resnet(
    mixer: Mixer | None = None,
    *,
    name: str,
    image_size: tuple[int, int] = (256, 256),
    in_channels: int = 3,
    num_classes: int = 1000,
    **options: Any,
) -> ResNet:
    """Make one of timm's lambda networks on our skeleton, with new weights: (B, in_channels, H, W) → (B, num_classes).

    Args:
        mixer: ignored; these networks have a `BiasedLambda`.
        name: one of TIMM_NETWORKS.
        image_size: (H, W) of the images.
        in_channels: channels of the images.
        num_classes: number of logits.
        **options: further arguments of `ResNet`.

    Raises:
        UserError: the name is unknown.
    """
    if name not in TIMM_NETWORKS:
        raise UserError(f"timm's network '{name}' can't be converted; choose one of {', '.join(TIMM_NETWORKS)}.")
    options = {**TIMM_NETWORKS[name], "stem": "tiered", **options}
    layer = partial(BiasedLambda, scope=options.pop("scope"))
    return ResNet(layer, image_size=image_size, in_channels=in_channels, num_classes=num_classes, **options)


def timm_network(name: str, weights: dict[str, Tensor], *, image_size: tuple[int, int] = (256, 256)) -> ResNet:
    """Convert one of timm's lambda networks.

    Args:
        name: one of TIMM_NETWORKS.
        weights: state dict of `timm.create_model(name)`.
        image_size: (H, W) of the images; for layers with relative positions that of the weights.

    Raises:
        UserError: the name is unknown, or the weights don't fit that network.
    """
    if name not in TIMM_NETWORKS:
        raise UserError(f"timm's network '{name}' can't be converted; choose one of {', '.join(TIMM_NETWORKS)}.")
    classes, channels = len(weights["head.fc.bias"]), weights["stem.conv1.conv.weight"].shape[1]
    model = timm_resnet(name=name, image_size=image_size, in_channels=channels, num_classes=classes)
    ours, expected = rename_weights(weights, model), model.state_dict()
    # Not left to load_state_dict, with which a global layer interpolates a table of another size.
    mismatches = sorted(key for key in ours.keys() | expected.keys() if shape(ours, key) != shape(expected, key))
    if mismatches:
        raise UserError(
            f"The weights are not those of timm's {name}: {', '.join(mismatches[:3])} differ or are missing."
        )
    model.load_state_dict(ours)
    return model


def shape(weights: dict[str, Tensor], key: str) -> tuple[int, ...] | None:
    return tuple(weights[key].shape) if key in weights else None


def rename_weights(weights: dict[str, Tensor], model: nn.Module) -> dict[str, Tensor]:
    """Rename timm's weights to our names.

    Args:
        weights: state dict of timm's network.
        model: the same network made by `timm_resnet`.
    """
    ours: dict[str, Tensor] = {}
    layers: dict[str, dict[str, Tensor]] = {}
    for key, tensor in weights.items():
        block, attention, entry = key.partition(".self_attn.")
        if attention:
            layers.setdefault(f"{block}.mixer", {})[entry] = tensor
            continue
        for pattern, name in NAMES:
            key = re.sub(pattern, name, key)
        ours[key] = tensor
    for path, layer in layers.items():
        mixer = model.get_submodule(path)
        assert isinstance(mixer, BiasedLambda)
        ours |= {f"{path}.{entry}": tensor for entry, tensor in convert_timm_weights(layer, mixer.sections).items()}
    return ours
