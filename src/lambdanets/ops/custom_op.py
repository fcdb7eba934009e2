"""Custom PyTorch operators for the methods with a backward pass of their own."""

from collections.abc import Callable
from math import prod
from typing import Any

import torch
from torch import Tensor

Method = Callable[[Tensor, Tensor, Tensor, Tensor], Tensor]
Gradients = tuple[Tensor, Tensor, Tensor, Tensor]


def define_op(
    name: str,
    forward: Callable[..., Tensor],
    backward: Callable[..., Gradients],
    *,
    channels_first: bool = False,
    saved_size: Callable[[Tensor, Tensor, Tensor], int] = lambda query, values, table: 0,
) -> Method:
    """Define the operator `lambdanets::name` of (query, values, table, content).

    In a compiled or exported graph the operator is one node, so that its loops stay loops. The backward recomputes
    intermediate results from the inputs, except for those that the forward saves.

    Args:
        name: name of the operator.
        forward: (query (B, H, W, h, k), values (B, H', W', u, v), table, content (B, k, v), saved) → (B, H, W, h, v).
            `saved` is a flat tensor to fill for the backward; it is empty without a backward, or if nothing is saved.
        backward: (gradient of the result, query, values, table, content, saved) → gradients of the four inputs.
        channels_first: lay the maps out as (B, channels, H, W) in memory, whatever the order of their axes.
        saved_size: (query, values, table) → number of elements to save.

    Returns:
        The differentiable operator as a function.
    """

    def run(query: Tensor, values: Tensor, table: Tensor, content: Tensor, training: bool) -> tuple[Tensor, Tensor]:
        if query.numel() == 0:
            return fake(query, values, table, content, training)
        saved = new_saved(query, values, table, training)
        with torch.autocast(query.device.type, enabled=False):
            y = forward(*(prepare_input(tensor, channels_first) for tensor in (query, values, table, content)), saved)
        return to_layout(y.to(query.dtype), channels_first), saved

    def run_backward(
        grad: Tensor, query: Tensor, values: Tensor, table: Tensor, content: Tensor, saved: Tensor
    ) -> tuple[Tensor, Tensor, Tensor, Tensor]:
        inputs = query, values, table, content
        if query.numel() == 0:
            return tuple(torch.zeros_like(tensor) for tensor in inputs)  # type: ignore[return-value]
        with torch.autocast(query.device.type, enabled=False):
            grads = backward(*(prepare_input(tensor, channels_first) for tensor in (grad, *inputs)), saved)
        pairs = zip(grads, inputs, strict=True)
        return tuple(to_layout(grad.to(tensor.dtype), channels_first) for grad, tensor in pairs)  # type: ignore[return-value]

    def fake(query: Tensor, values: Tensor, table: Tensor, content: Tensor, training: bool) -> tuple[Tensor, Tensor]:
        y = to_layout(query.new_empty(*query.shape[:4], values.shape[4]), channels_first)
        return y, new_saved(query, values, table, training)

    def new_saved(query: Tensor, values: Tensor, table: Tensor, training: bool) -> Tensor:
        exact = torch.promote_types(query.dtype, torch.float32)
        return query.new_empty(saved_size(query, values, table) if training else 0, dtype=exact)

    def fake_backward(grad: Tensor, *inputs: Tensor) -> tuple[Tensor, ...]:
        return tuple(to_layout(tensor.new_empty(tensor.shape), channels_first) for tensor in inputs[:4])

    def save(ctx: Any, inputs: tuple[Any, ...], output: tuple[Tensor, Tensor]) -> None:
        ctx.save_for_backward(*inputs[:4], output[1])
        ctx.mark_non_differentiable(output[1])
        ctx.set_materialize_grads(False)  # no zeros as the gradient of what is saved

    def differentiate(ctx: Any, grad: Tensor | None, _: Any) -> tuple[Tensor | None, ...]:
        return (None,) * 5 if grad is None else (*op_backward(grad, *ctx.saved_tensors), None)

    op = torch.library.custom_op(f"lambdanets::{name}", run, mutates_args=())
    op_backward = torch.library.custom_op(f"lambdanets::{name}_backward", run_backward, mutates_args=())
    op.register_fake(fake)
    op_backward.register_fake(fake_backward)
    op.register_autograd(differentiate, setup_context=save)

    def method(query: Tensor, values: Tensor, table: Tensor, content: Tensor) -> Tensor:
        training = torch.is_grad_enabled() and any(t.requires_grad for t in (query, values, table, content))
        return op(query, values, table, content, training)[0]

    return method


class Scratch:
    """Reusable buffers for the steps of a loop; allocating new ones costs more than the steps.

    Args:
        like: a tensor of the buffers' data type and device.
    """

    def __init__(self, like: Tensor) -> None:
        self.like = like
        self.buffers: dict[str, Tensor] = {}

    def __call__(self, name: str, *shape: int) -> Tensor:
        """Return an uninitialized tensor in the buffer of that name."""
        size = prod(shape)
        buffer = self.buffers.get(name)
        if buffer is None or buffer.numel() < size:
            buffer = self.buffers[name] = self.like.new_empty(size)
        return buffer[:size].view(shape)

    def product(self, name: str, a: Tensor, b: Tensor) -> Tensor:
        """Return the matrix product of a and b, of two or three axes each, in the buffer of that name."""
        out = self(name, *a.shape[:-1], b.shape[-1])
        return torch.mm(a, b, out=out) if a.ndim == 2 else torch.bmm(a, b, out=out)


def prepare_input(tensor: Tensor, channels_first: bool) -> Tensor:
    """Lay a tensor out for an operator; on a CPU convert half precision, which is slow there, to single."""
    half = tensor.device.type == "cpu" and tensor.dtype in (torch.bfloat16, torch.float16)
    return to_layout(tensor.float() if half else tensor, channels_first)


def to_layout(tensor: Tensor, channels_first: bool) -> Tensor:
    """Make a tensor contiguous, for fast batched products; with channels_first, the positions of maps are innermost."""
    if channels_first and tensor.ndim == 5:
        return tensor.permute(0, 3, 4, 1, 2).contiguous().permute(0, 3, 4, 1, 2)
    return tensor.contiguous()
