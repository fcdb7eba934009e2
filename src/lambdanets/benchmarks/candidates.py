"""Layers to compare: our lambda layer, those of other libraries, and the layers that it replaces."""

import importlib
from collections.abc import Callable, Mapping
from typing import Any

from torch import nn

from lambdanets.errors import UserError
from lambdanets.mixers import Attention, Conv, LambdaLayer
from lambdanets.mixers.interface import stride_pool
from lambdanets.mixers.lambda_layer import Scope

OURS, TIMM, LAMBDA_NETWORKS = "ours", "timm", "lambda-networks"
FLOAT32_BYTES = 4
CONV, ATTENTION = "3×3 conv", "BoTNet attention"


class MissingPeerError(UserError):
    """Another library, or a package that it needs, is not installed."""


def import_peer(module: str) -> Any:
    """Import a module of another library.

    Raises:
        MissingPeerError: the library is not installed.
    """
    try:
        return importlib.import_module(module)
    except ImportError as error:
        raise MissingPeerError(f"{error} (pip install -e '.[bench]')") from error


def make_available(factories: Mapping[str, Callable[[], nn.Module]]) -> tuple[dict[str, nn.Module], list[str]]:
    """Make the modules whose library is installed, and return a note for each other one."""
    modules, notes = {}, []
    for name, make in factories.items():
        try:
            modules[name] = make()
        except MissingPeerError as error:
            notes.append(f"{name} is left out: {error}.")
    return modules, notes


def layer_factories(
    channels: int, side: int, scope: Scope, batch: int, memory_gib: float
) -> dict[str, Callable[[], nn.Module]]:
    """Return a factory for each layer whose training step fits into memory.

    Args:
        channels: channels of the map.
        side: height and width of the map.
        scope: scope of the lambda layers.
        batch: images.
        memory_gib: memory of the training step.
    """
    positions = side * side
    factories: dict[str, Callable[[], nn.Module]] = {
        OURS: lambda: LambdaLayer(channels, feature_size=(side, side), scope=scope),
        LAMBDA_NETWORKS: lambda: make_lambda_networks_layer(channels, side, scope),
        TIMM: lambda: make_timm_layer(channels, side, scope),
        CONV: lambda: Conv(channels, stride=1),
        ATTENTION: lambda: Attention(channels, feature_size=(side, side)),
    }
    # Elements of the tensors that they expand, times the copies that a training step was measured to hold.
    elements = {ATTENTION: 4 * batch * 8 * positions**2}
    if scope == "global":
        elements |= {TIMM: 6 * batch * 16 * positions**2, LAMBDA_NETWORKS: 3 * 16 * positions**2}
    return {
        name: make for name, make in factories.items() if FLOAT32_BYTES * elements.get(name, 0) < memory_gib * 2**30
    }


def make_lambda_networks_layer(channels: int, side: int, scope: Scope) -> nn.Module:
    make = import_peer("lambda_networks").LambdaLayer
    context = {"n": side} if scope == "global" else {"r": scope}
    return make(channels, dim_k=16, heads=4, dim_u=1, **context)


def make_timm_layer(channels: int, side: int, scope: Scope) -> nn.Module:
    make = import_peer("timm.layers.lambda_layer").LambdaLayer
    return make(channels, feat_size=(side, side), r=None if scope == "global" else scope)


class LambdaNetworksMixer(nn.Sequential):
    """Mixer of lambda-networks' layer, followed by the paper's pooling for a stride."""

    def __init__(self, channels: int, *, stride: int, feature_size: tuple[int, int], scope: Scope = 23) -> None:
        super().__init__(make_lambda_networks_layer(channels, feature_size[0], scope), stride_pool(stride))
