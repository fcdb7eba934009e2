"""Custom PyTorch operators for the methods with a backward pass of their own."""

from collections.abc import Callable
from math import prod
from typing import Any

import torch
from torch import Tensor
from torch.autograd import forward_ad

from lambdanets.ops.lambdas import lambdas_first

Method = Callable[[Tensor, Tensor, Tensor, Tensor], Tensor]
Gradients = tuple[Tensor, Tensor, Tensor, Tensor]
Factors = tuple[Tensor, Tensor, Tensor, Tensor]


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
    intermediate results from the inputs, except for those that the forward saves. It can be differentiated again, to
    any order. Under `torch.func` transforms and in forward mode, `lambdas_first` computes the product instead.

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

    def save_backward(ctx: Any, inputs: tuple[Any, ...], output: Gradients) -> None:
        ctx.save_for_backward(*inputs[:5])
        ctx.set_materialize_grads(False)

    def differentiate_backward(ctx: Any, *tangents: Tensor | None) -> tuple[Tensor | None, ...]:
        """Differentiate the backward; it uses the product and its backward only, so that any order is possible."""
        grad, query, values, table, content = ctx.saved_tensors
        inputs = (query, values, table, content)
        d_grad: Tensor | None = None
        d_inputs: list[Tensor | None] = [None] * 4
        for factors, differentiated in product_rule(inputs, tangents):
            y = op(*factors, False)[0]
            d_grad = y if d_grad is None else d_grad + y
            d_factors = op_backward(grad, *factors, grad.new_empty(0))
            for index in differentiated:
                total = d_inputs[index]
                d_inputs[index] = d_factors[index] if total is None else total + d_factors[index]
        return d_grad, *d_inputs, None

    op = torch.library.custom_op(f"lambdanets::{name}", run, mutates_args=())
    op_backward = torch.library.custom_op(f"lambdanets::{name}_backward", run_backward, mutates_args=())
    op.register_fake(fake)
    op_backward.register_fake(fake_backward)
    op.register_autograd(differentiate, setup_context=save)
    op_backward.register_autograd(differentiate_backward, setup_context=save_backward)

    def method(query: Tensor, values: Tensor, table: Tensor, content: Tensor) -> Tensor:
        if is_transformed():
            return lambdas_first(query, values, table, content)
        # The check of a trace runs without gradients and has to give the same graph.
        differentiable = torch.is_grad_enabled() and not torch.jit.is_tracing()
        training = differentiable and any(t.requires_grad for t in (query, values, table, content))
        return op(query, values, table, content, training)[0]

    return method


def product_rule(inputs: Factors, tangents: tuple[Tensor | None, ...]) -> list[tuple[Factors, tuple[int, ...]]]:
    """Return the products whose sum is the derivative of a product along some tangents.

    Content and position lambdas are one sum that is linear in the query; the position lambdas are linear in values and
    in the table: F' = F(dq, v, t, c) + F(q, dv, t, dc) + F(q, v, dt, 0).

    Args:
        inputs: query, values, table and content.
        tangents: directions for each of them, or None for zeros.

    Returns:
        For each product its four factors, and the indices of those that are inputs.
    """
    query, values, table, content = inputs
    d_query, d_values, d_table, d_content = tangents
    products: list[tuple[Factors, tuple[int, ...]]] = []
    if d_query is not None:
        products.append(((d_query, values, table, content), (1, 2, 3)))
    if d_values is not None or d_content is not None:
        d_values = torch.zeros_like(values) if d_values is None else d_values
        d_content = torch.zeros_like(content) if d_content is None else d_content
        products.append(((query, d_values, table, d_content), (0, 2)))
    if d_table is not None:
        products.append(((query, values, d_table, torch.zeros_like(content)), (0, 1)))
    return products


def is_transformed() -> bool:
    """Return whether `torch.func` transforms are active, or forward-mode differentiation, which operators lack."""
    if torch.compiler.is_compiling():
        return False
    return torch._C._are_functorch_transforms_active() or forward_ad._current_level >= 0


def must_be_differentiable(grad: Tensor) -> bool:
    """Return whether a backward pass must consist of PyTorch's operators, given the gradient that it gets.

    It may be differentiated again, or compute several gradients at once.
    """
    return torch.is_grad_enabled() or is_transformed() or torch._C._functorch.is_legacy_batchedtensor(grad)


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
