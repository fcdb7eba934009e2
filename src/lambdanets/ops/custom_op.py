"""Makes PyTorch operators of the methods that have their own backward."""

from collections.abc import Callable
from math import prod
from typing import Any

import torch
from torch import Tensor

Method = Callable[[Tensor, Tensor, Tensor, Tensor], Tensor]
Four = tuple[Tensor, Tensor, Tensor, Tensor]


def define_op(
    name: str,
    forward: Callable[..., Tensor],
    backward: Callable[..., Four],
    *,
    channels_first: bool = False,
    saved_size: Callable[[Tensor, Tensor, Tensor], int] = lambda query, values, table: 0,
) -> Method:
    """The operator `lambdanets::name` of (query, values, table, content).

    Compilers and exporters see one node, so that its loops stay loops. A backward recomputes what it needs from the
    inputs, and from what its forward kept.

    Args:
        name: of the operator.
        forward: (query (B, H, W, h, k), values (B, H', W', u, v), table, content (B, k, v), kept) → (B, H, W, h, v).
            `kept` is a flat tensor to fill for the backward, empty if there will be none or nothing is kept.
        backward: (gradient of the result, query, values, table, content, kept) → the gradients of these four.
        channels_first: whether the maps are to lie as (B, channels, H, W) in memory, whatever the order of their axes.
        saved_size: how many elements are kept, from query, values and table.
    """

    def run(query: Tensor, values: Tensor, table: Tensor, content: Tensor, training: bool) -> tuple[Tensor, Tensor]:
        if query.numel() == 0:
            return fake(query, values, table, content, training)
        kept = to_keep(query, values, table, training)
        with torch.autocast(query.device.type, enabled=False):
            y = forward(*(prepare_input(tensor, channels_first) for tensor in (query, values, table, content)), kept)
        return to_layout(y.to(query.dtype), channels_first), kept

    def run_backward(
        grad: Tensor, query: Tensor, values: Tensor, table: Tensor, content: Tensor, kept: Tensor
    ) -> tuple[Tensor, Tensor, Tensor, Tensor]:
        inputs = query, values, table, content
        if query.numel() == 0:
            return tuple(torch.zeros_like(tensor) for tensor in inputs)  # type: ignore[return-value]
        with torch.autocast(query.device.type, enabled=False):
            grads = backward(*(prepare_input(tensor, channels_first) for tensor in (grad, *inputs)), kept)
        return tuple(to_layout(grad.to(query.dtype), channels_first) for grad in grads)  # type: ignore[return-value]

    def fake(query: Tensor, values: Tensor, table: Tensor, content: Tensor, training: bool) -> tuple[Tensor, Tensor]:
        y = to_layout(query.new_empty(*query.shape[:4], values.shape[4]), channels_first)
        return y, to_keep(query, values, table, training)

    def to_keep(query: Tensor, values: Tensor, table: Tensor, training: bool) -> Tensor:
        exact = torch.promote_types(query.dtype, torch.float32)
        return query.new_empty(saved_size(query, values, table) if training else 0, dtype=exact)

    def fake_backward(grad: Tensor, *inputs: Tensor) -> tuple[Tensor, ...]:
        return tuple(to_layout(tensor.new_empty(tensor.shape), channels_first) for tensor in inputs[:4])

    def save(ctx: Any, inputs: tuple[Any, ...], output: tuple[Tensor, Tensor]) -> None:
        ctx.save_for_backward(*inputs[:4], output[1])
        ctx.mark_non_differentiable(output[1])
        ctx.set_materialize_grads(False)  # zeros for what is kept

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


def prepare_input(tensor: Tensor, channels_first: bool) -> Tensor:
    """Laid out as asked; on a CPU in single precision, since half is slow there."""
    half = tensor.device.type == "cpu" and tensor.dtype in (torch.bfloat16, torch.float16)
    return to_layout(tensor.float() if half else tensor, channels_first)


def to_layout(tensor: Tensor, channels_first: bool) -> Tensor:
    """Contiguous, without which batched products are slow; maps with their positions innermost if channels_first."""
    if channels_first and tensor.ndim == 5:
        return tensor.permute(0, 3, 4, 1, 2).contiguous().permute(0, 3, 4, 1, 2)
    return tensor.contiguous()
