"""The layers that are compared: ours, other libraries', and what a lambda layer replaces."""

import importlib
from collections.abc import Callable
from typing import Any

from torch import nn

from lambdanets.errors import UserError
from lambdanets.mixers import Attention, Conv, LambdaLayer
from lambdanets.mixers.interface import stride_pool
from lambdanets.mixers.lambda_layer import Scope

OURS, TIMM, LAMBDA_NETWORKS = "ours", "timm", "lambda-networks"
CONV, ATTENTION = "3×3 conv", "BoTNet attention"


def peer(module: str) -> Any:
    """A module of another library.

    Raises:
        UserError: it isn't installed.
    """
    try:
        return importlib.import_module(module)
    except ImportError as error:
        raise UserError(
            f"This benchmark compares with {module.split('.')[0]}, which isn't installed: pip install -e '.[bench]'."
        ) from error


def layer_factories(
    channels: int, side: int, scope: Scope, batch: int, memory_gib: float
) -> dict[str, Callable[[], nn.Module]]:
    """Makers of the layers of one shape, without those that are known to need more memory."""
    positions = side * side
    makers: dict[str, Callable[[], nn.Module]] = {
        OURS: lambda: LambdaLayer(channels, feature_size=(side, side), scope=scope),
        LAMBDA_NETWORKS: lambda: lambda_networks(channels, side, scope),
        TIMM: lambda: timm(channels, side, scope),
        CONV: lambda: Conv(channels, stride=1),
        ATTENTION: lambda: Attention(channels, feature_size=(side, side)),
    }
    # What they expand, in float32, times the copies of it that a training step was seen to hold.
    needed = {ATTENTION: 4 * batch * 8 * positions**2}
    if scope == "global":
        needed |= {TIMM: 6 * batch * 16 * positions**2, LAMBDA_NETWORKS: 3 * 16 * positions**2}
    return {name: make for name, make in makers.items() if 4 * needed.get(name, 0) < memory_gib * 2**30}


def lambda_networks(channels: int, side: int, scope: Scope) -> nn.Module:
    make = peer("lambda_networks").LambdaLayer
    context = {"n": side} if scope == "global" else {"r": scope}
    return make(channels, dim_k=16, heads=4, dim_u=1, **context)


def timm(channels: int, side: int, scope: Scope) -> nn.Module:
    make = peer("timm.layers.lambda_layer").LambdaLayer
    return make(channels, feat_size=(side, side), r=None if scope == "global" else scope)


class LambdaNetworksMixer(nn.Sequential):
    """lambda-networks' layer as a mixer of our skeleton, with the paper's pooling for a stride."""

    def __init__(self, channels: int, *, stride: int, feature_size: tuple[int, int], scope: Scope = 23) -> None:
        super().__init__(lambda_networks(channels, feature_size[0], scope), stride_pool(stride))
