"""Networks of PyTorch's own operators only, which every runtime can run."""

from collections.abc import Iterator
from contextlib import contextmanager

import torch
from torch import Tensor, nn

from lambdanets.inference.folding import fold_batch_norms
from lambdanets.mixers import LambdaLayer
from lambdanets.ops import MethodName

# The lambda layer's methods without a custom operator.
METHODS: tuple[MethodName, ...] = ("lambdas", "convolution")


def portable_copy(network: nn.Module, images: Tensor) -> nn.Module:
    """Copy a network with batch norms folded, and with lambda layers that use the cheaper of METHODS.

    Args:
        network: stays as it is.
        images: (B, C, H, W), an example of its input.
    """
    network = fold_batch_norms(network)
    with record_inputs(network) as inputs, torch.no_grad():
        network(images)
    for layer, x in inputs.items():
        costs = layer.predict_costs(x)
        supported = [name for name in METHODS if name in costs]
        layer.set_method(min(supported, key=lambda name: costs[name].seconds))
    return network


@contextmanager
def record_inputs(network: nn.Module) -> Iterator[dict[LambdaLayer, Tensor]]:
    """Record the inputs of all lambda layers with position embeddings in a pass through the network."""
    inputs: dict[LambdaLayer, Tensor] = {}
    layers = [module for module in network.modules() if isinstance(module, LambdaLayer) and module.table is not None]
    hooks = [layer.register_forward_pre_hook(lambda layer, given: inputs.update({layer: given[0]})) for layer in layers]
    try:
        yield inputs
    finally:
        for hook in hooks:
            hook.remove()
