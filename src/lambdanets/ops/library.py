"""Makes PyTorch operators of the methods that have their own backward."""

from collections.abc import Callable
from math import prod
from typing import Any

import torch
from torch import Tensor

Method = Callable[[Tensor, Tensor, Tensor, Tensor], Tensor]
Backward = Callable[[Tensor, Tensor, Tensor, Tensor, Tensor], tuple[Tensor, Tensor, Tensor, Tensor]]


def operator(name: str, forward: Method, backward: Backward, *, channels_first: bool = False) -> Method:
    """The operator `lambdanets::name` of (query, values, table, content).

    Compilers and exporters see one node, so that its loops stay loops. Nothing but the inputs is kept for the
    backward, which recomputes what it needs.

    Args:
        name: of the operator.
        forward: (query (B, H, W, h, k), values (B, H', W', u, v), table, content (B, k, v)) → (B, H, W, h, v).
        backward: (gradient of the result, query, values, table, content) → the gradients of these four.
        channels_first: whether the maps are to lie as (B, channels, H, W) in memory, whatever the order of their axes.
    """

    def run(query: Tensor, values: Tensor, table: Tensor, content: Tensor) -> Tensor:
        if query.numel() == 0:
            return empty(query, values)
        with torch.autocast(query.device.type, enabled=False):
            y = forward(*(prepared(tensor, channels_first) for tensor in (query, values, table, content)))
        return laid_out(y.to(query.dtype), channels_first)

    def run_backward(
        grad: Tensor, query: Tensor, values: Tensor, table: Tensor, content: Tensor
    ) -> tuple[Tensor, Tensor, Tensor, Tensor]:
        inputs = query, values, table, content
        if query.numel() == 0:
            return tuple(laid_out(tensor.new_zeros(tensor.shape), channels_first) for tensor in inputs)  # type: ignore[return-value]
        with torch.autocast(query.device.type, enabled=False):
            grads = backward(*(prepared(tensor, channels_first) for tensor in (grad, *inputs)))
        return tuple(laid_out(grad.to(query.dtype), channels_first) for grad in grads)  # type: ignore[return-value]

    def empty(query: Tensor, values: Tensor) -> Tensor:
        return laid_out(query.new_empty(*query.shape[:4], values.shape[4]), channels_first)

    op = torch.library.custom_op(f"lambdanets::{name}", run, mutates_args=())
    op_backward = torch.library.custom_op(f"lambdanets::{name}_backward", run_backward, mutates_args=())

    def keep(ctx: Any, inputs: tuple[Tensor, ...], output: Tensor) -> None:
        ctx.save_for_backward(*inputs)

    def differentiate(ctx: Any, grad: Tensor) -> tuple[Tensor, ...]:
        return op_backward(grad, *ctx.saved_tensors)

    op.register_fake(lambda query, values, table, content: empty(query, values))
    op_backward.register_fake(
        lambda grad, *inputs: tuple(laid_out(tensor.new_empty(tensor.shape), channels_first) for tensor in inputs)
    )
    op.register_autograd(differentiate, setup_context=keep)
    return op


class Scratch:
    """Memory that the steps of a loop use in turn: got anew from the system at each step, it would cost more than they.

    Args:
        like: a tensor of the data type and device.
    """

    def __init__(self, like: Tensor) -> None:
        self.like = like
        self.held: dict[str, Tensor] = {}

    def __call__(self, name: str, *shape: int) -> Tensor:
        """An uninitialised tensor in the memory of that name."""
        size = prod(shape)
        held = self.held.get(name)
        if held is None or held.numel() < size:
            held = self.held[name] = self.like.new_empty(size)
        return held[:size].view(shape)

    def product(self, name: str, a: Tensor, b: Tensor) -> Tensor:
        """The matrix product of a and b, of two or three axes each, in the memory of that name."""
        out = self(name, *a.shape[:-1], b.shape[-1])
        return torch.mm(a, b, out=out) if a.ndim == 2 else torch.bmm(a, b, out=out)


def prepared(tensor: Tensor, channels_first: bool) -> Tensor:
    """Laid out as asked; on a CPU in single precision, since half is slow there."""
    half = tensor.device.type == "cpu" and tensor.dtype in (torch.bfloat16, torch.float16)
    return laid_out(tensor.float() if half else tensor, channels_first)


def laid_out(tensor: Tensor, channels_first: bool) -> Tensor:
    """Contiguous, without which batched products are slow; maps with their positions innermost if channels_first."""
    if channels_first and tensor.ndim == 5:
        return tensor.permute(0, 3, 4, 1, 2).contiguous().permute(0, 3, 4, 1, 2)
    return tensor.contiguous()
