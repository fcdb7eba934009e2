"""A network as any runtime can have it: of PyTorch's own operators only."""

import copy
from collections.abc import Iterator
from contextlib import contextmanager

import torch
from torch import Tensor, nn

from lambdanets.mixers import LambdaLayer
from lambdanets.ops import MethodName, predict_costs

# The methods of the lambda layer without an operator of our own.
METHODS: tuple[MethodName, ...] = ("lambdas", "convolution")


def portable(network: nn.Module, images: Tensor) -> nn.Module:
    """A copy in evaluation mode whose lambda layers compute what they did, by the cheaper of these methods.

    Args:
        network: of which a copy is made.
        images: (B, C, H, W), an example of what it is given.
    """
    network = copy.deepcopy(network).eval()
    with recorded(network) as inputs, torch.no_grad():
        network(images)
    for layer, x in inputs.items():
        found = predict_costs(layer.cost_shape(x[:, :, :: layer.step, :: layer.step], x))
        known = [name for name in METHODS if name in found]
        layer.method = min(known, key=lambda name: found[name].seconds)
    return network


@contextmanager
def recorded(network: nn.Module) -> Iterator[dict[LambdaLayer, Tensor]]:
    """The inputs of all lambda layers with position embeddings that a pass through the network meets."""
    inputs: dict[LambdaLayer, Tensor] = {}
    layers = [module for module in network.modules() if isinstance(module, LambdaLayer) and module.table is not None]
    hooks = [layer.register_forward_pre_hook(lambda layer, given: inputs.update({layer: given[0]})) for layer in layers]
    try:
        yield inputs
    finally:
        for hook in hooks:
            hook.remove()
