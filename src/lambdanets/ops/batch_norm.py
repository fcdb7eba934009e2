"""Batch norm in training with a sum and a ReLU behind it, on a CPU, as one node of the autograd graph.

The ReLU's output is saved for the backward pass anyway, as the next layer's input, and the norm's own never exists.
"""

from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional as F
from torch.nn.modules.module import _has_any_global_hook as has_global_hooks

from lambdanets.ops import passes
from lambdanets.ops.custom_op import is_transformed, must_be_differentiable
from lambdanets.ops.kernel import kernel_error

FLOATS = (torch.float32, torch.float64)


def norm_act(x: Tensor, norm: nn.Module, act: nn.Module | None = None, summand: Tensor | None = None) -> Tensor:
    """Apply a norm, add a summand and apply an activation: (B, C, H, W) → (B, C, H, W).

    One pass over memory does it for plain batch norms in eager training on a CPU, with channels innermost in memory.

    Args:
        x: (B, C, H, W).
        norm: module for it.
        act: activation, or None.
        summand: (B, C, H, W), or None.
    """
    if can_fuse(x, norm, act, summand):
        y: Tensor = BatchNormNode.apply(x, norm.weight, norm.bias, summand, norm, act is not None)
        return y
    y = norm(x)
    if summand is not None:
        y = y.add_(summand)  # the gradient of a norm doesn't need its output
    return y if act is None else act(y)


def can_fuse(x: Tensor, norm: nn.Module, act: nn.Module | None, summand: Tensor | None) -> bool:
    """Return whether `BatchNormNode` computes a norm, sum and activation."""
    if not (is_eager_training(x) and is_plain(norm) and (act is None or (type(act) is nn.ReLU and not has_hooks(act)))):
        return False
    maps = [x] if summand is None else [x, summand]
    return (
        all(type(t) is Tensor and t.dtype is x.dtype and t.shape == x.shape and is_channels_last(t) for t in maps)
        and x.dtype in (norm.weight.dtype, torch.bfloat16)
        and x.numel() > x.shape[1]  # one position has no variance
    )


def is_channels_last(x: Tensor) -> bool:
    return x.ndim == 4 and x.is_contiguous(memory_format=torch.channels_last)


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


class BatchNormNode(torch.autograd.Function):
    """See the module's description."""

    @staticmethod
    def forward(
        ctx: Any, x: Tensor, gain: Tensor, bias: Tensor, summand: Tensor | None, norm: nn.BatchNorm2d, relu: bool
    ) -> Tensor:
        y = torch.empty_like(x)
        added = None if summand is None else by_position(summand)
        statistics = passes.normalize(by_position(x), norm, by_position(y), summand=added, relu=relu)
        ctx.save_for_backward(x, gain, bias, y if relu else None, *statistics)
        ctx.eps, ctx.relu = norm.eps, relu
        return y

    @staticmethod
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor | None, ...]:
        x, gain, bias, y, *statistics = ctx.saved_tensors
        needs_summand = ctx.needs_input_grad[3]
        if must_be_differentiable(grad):
            with torch.enable_grad():
                out = F.batch_norm(x, None, None, gain, bias, True, 0.0, ctx.eps)
                positive = 1 if y is None else (y > 0).to(grad.dtype)
                grads = torch.autograd.grad(out, (x, gain, bias), grad * positive, create_graph=True)
            return *grads, grad * positive if needs_summand else None, None, None
        grad = grad.contiguous(memory_format=torch.channels_last)
        d_x = torch.empty_like(x)
        d_summand = torch.empty_like(grad) if needs_summand and ctx.relu else None
        d_gain, d_bias = passes.differentiate(
            *(by_position(grad), by_position(x), gain, passes.Statistics(*statistics), by_position(d_x)),
            y=None if y is None else by_position(y),
            d_summand=None if d_summand is None else by_position(d_summand),
        )
        if needs_summand and d_summand is None:
            d_summand = grad
        return d_x, d_gain, d_bias, d_summand, None, None


def by_position(x: Tensor) -> Tensor:
    """View a map in channels_last order as a matrix: (B, C, H, W) → (B·H·W, C)."""
    return x.permute(0, 2, 3, 1).view(-1, x.shape[1])
