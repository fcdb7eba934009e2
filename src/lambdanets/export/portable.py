"""Networks of PyTorch's own operators only, which every runtime can run."""

from collections.abc import Iterator
from contextlib import contextmanager

import torch
from torch import Tensor, nn

from lambdanets.errors import UserError
from lambdanets.export.products import LambdaConvolution, Runtime, make_product
from lambdanets.inference.folding import fold_batch_norms
from lambdanets.mixers import LambdaLayer
from lambdanets.ops import hide_later_positions


def portable_copy(
    network: nn.Module, images: Tensor, *, runtime: Runtime = "torch", dynamic_size: bool = False
) -> nn.Module:
    """Copy a network with batch norms folded, and with the lambda layers' products that are cheapest for a runtime.

    Args:
        network: stays as it is.
        images: (B, C, H, W), an example of its input.
        runtime: that the copy is exported to.
        dynamic_size: make a copy for images of any size.

    Raises:
        UserError: a lambda layer with a global scope has to take images of any size.
    """
    network = fold_batch_norms(network)
    with record_inputs(network) as inputs, torch.no_grad():
        network(images)
    for layer, x in inputs.items():
        if dynamic_size and layer.scope == "global":
            raise UserError(
                "job.dynamic_size=true needs lambda layers with a local scope, but this network has a global one, with "
                "position embeddings for one size of images: leave it out, or train with mixer.scope=23, say."
            )
        table = layer.fit_table(x.permute(0, 2, 3, 1))
        assert table is not None
        if layer.causal:
            table = hide_later_positions(table)
        shape = layer.product_shape(x[:, :, :: layer.query_stride, :: layer.query_stride], x)
        options = {"dilation": layer.dilation, "stride": layer.query_stride}
        product = LambdaConvolution(table, **options) if dynamic_size else make_product(table, shape, runtime)
        layer.product = product
        layer.share_table(None)  # the product holds what it needs of it
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
