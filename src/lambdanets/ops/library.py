"""Makes PyTorch operators of the methods that have their own backward."""

from collections.abc import Callable, Iterator
from typing import Any

import torch
from torch import Tensor

Method = Callable[[Tensor, Tensor, Tensor, Tensor], Tensor]
Backward = Callable[[Tensor, Tensor, Tensor, Tensor, Tensor], tuple[Tensor, Tensor, Tensor, Tensor]]


def operator(name: str, forward: Method, backward: Backward) -> Method:
    """The operator `lambdanets::name` of (query, values, table, content).

    Compilers and exporters see one node, so that its loops stay loops. Nothing but the inputs is kept for the
    backward, which recomputes what it needs.

    Args:
        name: of the operator.
        forward: (query (B, H, W, h, k), values (B, H', W', u, v), table, content (B, k, v)) → (B, H, W, h, v).
        backward: (gradient of the result, query, values, table, content) → the gradients of these four.
    """

    def run(query: Tensor, values: Tensor, table: Tensor, content: Tensor) -> Tensor:
        if query.numel() == 0:
            return query.new_empty(*query.shape[:4], values.shape[4])
        with torch.autocast(query.device.type, enabled=False):
            return forward(*prepared(query, values, table, content)).to(query.dtype)

    def run_backward(
        grad: Tensor, query: Tensor, values: Tensor, table: Tensor, content: Tensor
    ) -> tuple[Tensor, Tensor, Tensor, Tensor]:
        inputs = query, values, table, content
        if query.numel() == 0:
            return tuple(tensor.new_zeros(tensor.shape) for tensor in inputs)  # type: ignore[return-value]
        with torch.autocast(query.device.type, enabled=False):
            grads = backward(*prepared(grad, *inputs))
        return tuple(grad.to(query.dtype) for grad in grads)  # type: ignore[return-value]

    op = torch.library.custom_op(f"lambdanets::{name}", run, mutates_args=())
    op_backward = torch.library.custom_op(f"lambdanets::{name}_backward", run_backward, mutates_args=())

    def keep(ctx: Any, inputs: tuple[Tensor, ...], output: Tensor) -> None:
        ctx.save_for_backward(*inputs)

    def differentiate(ctx: Any, grad: Tensor) -> tuple[Tensor, ...]:
        return op_backward(grad, *ctx.saved_tensors)

    op.register_fake(lambda query, values, table, content: query.new_empty(*query.shape[:4], values.shape[4]))
    op_backward.register_fake(lambda grad, *inputs: tuple(tensor.new_empty(tensor.shape) for tensor in inputs))
    op.register_autograd(differentiate, setup_context=keep)
    return op


def prepared(*tensors: Tensor) -> Iterator[Tensor]:
    """Contiguous, without which batched products are slow; on a CPU in single precision, for which half is slow too."""
    for tensor in tensors:
        half = tensor.device.type == "cpu" and tensor.dtype in (torch.bfloat16, torch.float16)
        yield (tensor.float() if half else tensor).contiguous()
