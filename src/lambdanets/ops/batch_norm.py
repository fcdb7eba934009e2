"""Conditions under which C functions may compute batch norms in training."""

import torch
from torch import Tensor, nn
from torch.nn.modules.module import _has_any_global_hook as has_global_hooks

from lambdanets.ops.custom_op import is_transformed
from lambdanets.ops.kernel import kernel_error

FLOATS = (torch.float32, torch.float64)


def is_eager_training(x: Tensor) -> bool:
    """Return whether C functions may compute a part of the autograd graph with an input.

    Not in compiled or traced graphs, nor under transforms and dispatch modes, which wouldn't see what they do.
    """
    if not torch.is_grad_enabled() or torch.compiler.is_compiling() or torch.jit.is_tracing() or is_transformed():
        return False
    hidden = torch._C._len_torch_dispatch_stack() > 0
    return type(x) is Tensor and x.device.type == "cpu" and not hidden and kernel_error() is None


def is_plain(norm: nn.Module) -> bool:
    """Return whether a module is a batch norm in training, with parameters and statistics, that nobody hooks."""
    if type(norm) is not nn.BatchNorm2d or not (norm.training and norm.affine and norm.track_running_stats):
        return False
    return type(norm.weight) is nn.Parameter and norm.weight.dtype in FLOATS and not has_hooks(norm)


def has_hooks(module: nn.Module) -> bool:
    """Return whether somebody hooks a module, or all modules."""
    hooks = module._forward_hooks, module._forward_pre_hooks, module._backward_hooks, module._backward_pre_hooks
    return any(hooks) or has_global_hooks()
