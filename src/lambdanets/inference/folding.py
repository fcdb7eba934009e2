"""Batch norms folded into the layers before them.

In evaluation a batch norm is y = x · s + t per channel. A convolution or projection before it takes s into its weights
and t as its bias, so that the norm costs nothing.
"""

import copy
from collections.abc import Sequence
from itertools import pairwise
from typing import TypeGuard

import torch
from torch import Tensor, nn
from torch.nn.utils.fusion import fuse_conv_bn_eval
from torchvision.ops import StochasticDepth

from lambdanets.mixers import LambdaLayer
from lambdanets.mixers.double_attention import DoubleAttention
from lambdanets.mixers.efficient_attention import EfficientAttention
from lambdanets.models.backbone import BlockSequence
from lambdanets.models.batch_norm import SyncBatchNorm2d
from lambdanets.models.mobilenet import InvertedBottleneck
from lambdanets.models.resnet import Bottleneck

# Names of a layer and of the norm that directly follows it, by the class of the module that holds them.
FOLLOWING_NORMS: dict[type[nn.Module], tuple[tuple[str, str], ...]] = {
    Bottleneck: (("conv1", "norm1"), ("mixer", "norm2"), ("conv3", "norm3")),
    InvertedBottleneck: (("mixer", "norm"),),
    DoubleAttention: (("out", "norm"),),
    EfficientAttention: (("out", "norm"),),
}
# Of batch norms that do nothing else; timm's, for one, may have an activation of their own.
BATCH_NORM_FORWARDS = (nn.modules.batchnorm._BatchNorm.forward, nn.SyncBatchNorm.forward, SyncBatchNorm2d.forward)
# Of sequences that run their layers one after another.
PLAIN_FORWARDS = (nn.Sequential.forward, BlockSequence.forward)


def fold_batch_norms(model: nn.Module) -> nn.Module:
    """Copy a model into evaluation mode, without batch norms where a convolution or projection can take them.

    Dropout and drop path, which do nothing in evaluation, are removed. The copy computes the same, consists of
    PyTorch's own operators wherever the model does, and can't be trained further.

    Args:
        model: stays as it is. Batch norms in modules of other libraries are folded where they follow a convolution in
            an `nn.Sequential`; others stay.
    """
    model = copy.deepcopy(model).eval()
    for name, module in [*model.named_modules()]:
        if name and isinstance(module, nn.Dropout | StochasticDepth):
            model.set_submodule(name, nn.Identity())
    for module in model.modules():
        if isinstance(module, nn.Sequential) and type(module).forward in PLAIN_FORWARDS:
            names = [*module._modules]
            fold_pairs(module, [*pairwise(names)])
        elif isinstance(module, LambdaLayer) and keeps(module, LambdaLayer, "forward", "project"):
            fold_projection(module)
        else:
            fold_pairs(module, FOLLOWING_NORMS.get(type(module), ()))
    return model.requires_grad_(False)


def fold_pairs(module: nn.Module, pairs: Sequence[tuple[str, str]]) -> None:
    """Fold each norm of a module into the convolution before it, given the names of both."""
    for layer_name, norm_name in pairs:
        layer, norm = getattr(module, layer_name), getattr(module, norm_name)
        if is_plain_conv(layer) and is_foldable(norm):
            setattr(module, layer_name, fuse_conv_bn_eval(layer, norm))
            setattr(module, norm_name, nn.Identity())


def fold_projection(layer: LambdaLayer) -> None:
    """Fold the norms of queries and values into a lambda layer's projection, which then has a bias."""
    weight = layer.qkv.weight.detach().clone()
    bias = weight.new_zeros(len(weight)) if layer.qkv.bias is None else layer.qkv.bias.detach().clone()
    queries, values, _ = layer.sections
    for norm_name, rows in (("query_norm", slice(queries)), ("value_norm", slice(queries, queries + values))):
        norm = getattr(layer, norm_name)
        if is_foldable(norm):
            scale, shift = norm_to_affine(norm)
            weight[rows] *= scale[:, None]
            bias[rows] = bias[rows] * scale + shift
            setattr(layer, norm_name, nn.Identity())
    layer.qkv.weight = nn.Parameter(weight)
    layer.qkv.bias = nn.Parameter(bias)


def is_plain_conv(layer: nn.Module) -> TypeGuard[nn.Conv2d]:
    """Return whether a layer computes what `nn.Conv2d` does, which a subclass may not."""
    return isinstance(layer, nn.Conv2d) and keeps(layer, nn.Conv2d, "forward", "_conv_forward")


def keeps(module: nn.Module, base: type[nn.Module], *methods: str) -> bool:
    """Return whether the methods of a module are those of its base class."""
    return all(getattr(type(module), name) is getattr(base, name) for name in methods)


def is_foldable(norm: nn.Module) -> bool:
    """Return whether a module is a batch norm with fixed statistics, and does nothing else."""
    is_plain = type(norm).forward in BATCH_NORM_FORWARDS
    return is_plain and isinstance(norm, nn.modules.batchnorm._BatchNorm) and norm.running_mean is not None


def norm_to_affine(norm: nn.Module) -> tuple[Tensor, Tensor]:
    """Return s and t of a batch norm in evaluation, y = x · s + t: (C,) each."""
    assert isinstance(norm, nn.modules.batchnorm._BatchNorm)
    assert norm.running_mean is not None
    assert norm.running_var is not None
    scale = torch.rsqrt(norm.running_var + norm.eps)
    if norm.affine:
        scale = scale * norm.weight.detach()
    shift = -norm.running_mean * scale
    return scale, shift + norm.bias.detach() if norm.affine else shift
