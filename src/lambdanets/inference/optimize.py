"""Networks made faster for inference."""

from typing import TypeVar

import torch
from torch import nn
from torchvision.ops import SqueezeExcitation

from lambdanets.inference.folding import PLAIN_FORWARDS, fold_batch_norms, keeps
from lambdanets.inference.fused import FusedBottleneck, FusedSqueezeExcitation, fuse_conv, fuse_mixer
from lambdanets.models.mobilenet import InvertedBottleneck
from lambdanets.models.resnet import Bottleneck

Network = TypeVar("Network", bound=nn.Module)


def optimize_for_inference(model: Network, *, compile: bool = False) -> Network:  # noqa: A002
    """Copy a network into a faster one that computes the same, for inference only.

    Batch norms are folded into convolutions and into the projections of lambda layers; dropout and drop path are
    removed. On a CPU, in float32, convolutions are fused with activations and sums, their weights are laid out once for
    each size of inputs, and 3×3 convolutions use Winograd's algorithm; lambda layers are fused with the norm and the
    activation behind them. A layer that the function doesn't know, such as a mixer of your own, stays as it is. Logits
    are equal up to rounding.

        model = lambdanets.optimize_for_inference(lambdanets.load("runs/digits/default").network)

    Args:
        model: stays as it is, on its device.
        compile: compile the network by `torch.compile` instead of fusing its layers. That takes a minute at the first
            call and for each other size of the images.

    Returns:
        A network of the same class, in evaluation mode, which can't be trained.
    """
    network = fold_batch_norms(model)
    if compile:
        network.compile(options={"freezing": is_on_cpu(network)})
        return network  # type: ignore[return-value]
    if is_on_cpu(network) and torch.backends.mkldnn.is_available():
        root = nn.ModuleList([network])  # the network itself may be a layer to fuse
        fuse_layers(root)
        return root[0]  # type: ignore[return-value]
    return network  # type: ignore[return-value]


def is_on_cpu(network: nn.Module) -> bool:
    """Return whether all weights of a network are on a CPU in float32."""
    tensors = (*network.parameters(), *network.buffers())
    return all(tensor.device.type == "cpu" and tensor.dtype in (torch.float32, torch.int64) for tensor in tensors)


def fuse_layers(module: nn.Module) -> None:
    """Replace layers within a module by fused ones.

    Only convolutions in sequences and in known blocks are replaced, as other modules may use their weights. A subclass
    that computes in its own way stays.
    """
    for name, child in module.named_children():
        fuse_layers(child)
        if isinstance(child, Bottleneck) and FusedBottleneck.is_fusible(child):
            setattr(module, name, FusedBottleneck(child))
        elif isinstance(child, SqueezeExcitation) and keeps(child, SqueezeExcitation, "forward", "_scale"):
            setattr(module, name, FusedSqueezeExcitation(child))
        elif isinstance(child, InvertedBottleneck) and keeps(child, InvertedBottleneck, "forward"):
            fused = fuse_mixer(child.mixer, child.norm, child.act)
            for layer_name, layer in zip(("mixer", "norm", "act"), fused, strict=True):
                setattr(child, layer_name, layer)
        elif isinstance(child, nn.Sequential) and type(child).forward in PLAIN_FORWARDS:
            fuse_sequence(child)


def fuse_sequence(sequence: nn.Sequential) -> None:
    """Fuse the convolutions of a sequence with the activations behind them; its length stays."""
    for index, layer in enumerate(sequence):
        behind = (i for i in range(index + 1, len(sequence)) if type(sequence[i]) is not nn.Identity)
        following = next(behind, None)
        if following is None:
            sequence[index], _ = fuse_conv(layer, nn.Identity())
        else:
            sequence[index], sequence[following] = fuse_conv(layer, sequence[following])
