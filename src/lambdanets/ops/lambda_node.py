"""The lambda layer in training on a CPU, as one node of the autograd graph.

On small maps, PyTorch spends a third of the time between the products: copies, views, the gradients of slices and the
dispatch of some forty operators. This node computes the projection, the batch norms of queries and values, the softmax
of keys, the content lambda and the product of queries and lambdas, with a backward pass by hand:

    P = X Wᵀ;  (Q̂, V̂, K) = columns of P;  Q = BN(Q̂);  V = BN(V̂);  K̄ = softmax(K);  λc = K̄ᵀ V
    y_n^h = (λc + Σ_m E_nm v_mᵀ)ᵀ q_n^h

    dQ, dV, dE, dλc = backward of the product;  dV += K̄ dλc;  dK̄ = V dλcᵀ
    dP = (BN'(dQ), BN'(dV), softmax'(dK̄));  dX = dP W;  dW = dPᵀ X

Rows of X and P are positions. The gradients of Q̂, V̂ and K are written into the columns of one dP.
"""

from typing import Any, NamedTuple

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from lambdanets.ops import kernel, passes
from lambdanets.ops.content import content_lambda
from lambdanets.ops.custom_op import must_be_differentiable


class Depths(NamedTuple):
    """The layer's sizes, with the names of the paper."""

    heads: int
    key_depth: int
    value_depth: int
    intra_depth: int
    content: bool

    @property
    def queries(self) -> int:
        return self.heads * self.key_depth

    @property
    def values(self) -> int:
        return self.intra_depth * self.value_depth

    @property
    def keys(self) -> int:
        return self.intra_depth * self.key_depth if self.content else 0


def lambda_node(
    x: Tensor, weight: Tensor, query_norm: nn.BatchNorm2d, value_norm: nn.BatchNorm2d, table: Tensor, depths: Depths
) -> Tensor:
    """Compute a lambda layer in training, (B, C, H, W) → (B, C, H, W), in the memory format of x.

    Args:
        x: (B, C, H, W) in float32, float64 or bfloat16; products with the weight are in its data type.
        weight: (h·k + u·v + u·k, C), the projections to queries, values and keys.
        query_norm: batch norm of the h·k channels of queries, whose running statistics are updated.
        value_norm: batch norm of the u·v channels of values, likewise.
        table: (k, u, R, C), see `lambdanets.ops.lambda_map`.
        depths: the layer's sizes.
    """
    parameters = query_norm.weight, query_norm.bias, value_norm.weight, value_norm.bias
    y: Tensor = LambdaNode.apply(x, weight, *parameters, table, query_norm, value_norm, depths)
    return y


class LambdaNode(torch.autograd.Function):
    """See the module's description."""

    @staticmethod
    @torch.autocast("cpu", enabled=False)
    def forward(
        ctx: Any,
        x: Tensor,
        weight: Tensor,
        query_gain: Tensor,
        query_bias: Tensor,
        value_gain: Tensor,
        value_bias: Tensor,
        table: Tensor,
        query_norm: nn.BatchNorm2d,
        value_norm: nn.BatchNorm2d,
        depths: Depths,
    ) -> Tensor:
        batch, _, height, width = x.shape
        rows = to_rows(x)
        projected = rows @ weight.to(x.dtype).T
        query_columns, value_columns, key_columns = split_columns(projected, depths)
        query = table.new_empty(batch, height, width, depths.heads, depths.key_depth)
        values = table.new_empty(batch, height, width, depths.intra_depth, depths.value_depth)
        query_statistics = passes.normalize(query_columns, query_norm, query.view(-1, depths.queries))
        value_statistics = passes.normalize(value_columns, value_norm, values.view(-1, depths.values))
        if depths.content:
            keys = key_columns.unflatten(0, (batch, -1)).softmax(1, dtype=table.dtype)
            content = torch.bmm(by_key(keys, depths).mT, by_value(values))
        else:
            keys, content = None, table.new_zeros(batch, depths.key_depth, depths.value_depth)
        y = kernel.forward(query, values, table, content, query.new_empty(0))
        ctx.save_for_backward(
            *(x, rows, weight, projected, query, values, keys, content, table),
            *(query_gain, query_bias, value_gain, value_bias, *query_statistics, *value_statistics),
        )
        ctx.depths, ctx.eps = depths, (query_norm.eps, value_norm.eps)
        return from_rows(y.flatten(3).to(x.dtype), x)

    @staticmethod
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor | None, ...]:
        depths: Depths = ctx.depths
        x, rows, weight, projected, query, values, keys, content, table, *norms = ctx.saved_tensors
        query_gain, query_bias, value_gain, value_bias, *statistics = norms
        if must_be_differentiable(grad):
            inputs = x, weight, query_gain, query_bias, value_gain, value_bias, table
            return *differentiate_again(grad, inputs, ctx.needs_input_grad, depths, ctx.eps), None, None, None
        heads = grad.permute(0, 2, 3, 1).to(table.dtype).unflatten(3, (depths.heads, depths.value_depth))
        d_query, d_values, d_table, d_content = kernel.backward(
            heads, query, values, table, content, query.new_empty(0)
        )
        d_projected = torch.empty_like(projected)
        columns, d_columns = split_columns(projected, depths), split_columns(d_projected, depths)
        if depths.content:
            d_values = torch.baddbmm(by_value(d_values), by_key(keys, depths), d_content).view(values.shape)
            d_keys = torch.bmm(by_value(values), d_content.mT).view(keys.shape)
            d_keys = torch._softmax_backward_data(d_keys, keys, 1, projected.dtype)
            d_columns[2].copy_(d_keys.flatten(0, 1))
        query_grads = passes.differentiate(
            d_query.reshape(-1, depths.queries),
            *(columns[0], query_gain, passes.Statistics(*statistics[:2]), d_columns[0]),
        )
        value_grads = passes.differentiate(
            d_values.reshape(-1, depths.values),
            *(columns[1], value_gain, passes.Statistics(*statistics[2:]), d_columns[1]),
        )
        d_x = from_rows((d_projected @ weight.to(x.dtype)).view(*x.shape[:1], *x.shape[2:], -1), x)
        d_weight = (d_projected.T @ rows).to(weight.dtype)
        return d_x, d_weight, *query_grads, *value_grads, d_table, None, None, None


def differentiate_again(
    grad: Tensor,
    inputs: tuple[Tensor, ...],
    needs_grad: tuple[bool, ...],
    depths: Depths,
    eps: tuple[float, float],
) -> list[Tensor | None]:
    """Return the gradients of the inputs, which can be differentiated themselves."""
    with torch.enable_grad():
        y = compose_layer(inputs, depths, eps)
        chosen = [tensor for tensor, needed in zip(inputs, needs_grad, strict=False) if needed]
        grads = iter(torch.autograd.grad(y, chosen, grad, create_graph=True))
    return [next(grads) if needed else None for _, needed in zip(inputs, needs_grad, strict=False)]


def compose_layer(inputs: tuple[Tensor, ...], depths: Depths, eps: tuple[float, float]) -> Tensor:
    """Compute the same as `lambda_node` by differentiable operators, without running statistics."""
    x, weight, query_gain, query_bias, value_gain, value_bias, table = inputs
    rows = to_rows(x) @ weight.to(x.dtype).T
    query, values, keys = split_columns(rows, depths)
    maps = x.shape[0], *x.shape[2:]
    query = F.batch_norm(query.to(table.dtype), None, None, query_gain, query_bias, True, 0.0, eps[0])
    values = F.batch_norm(values.to(table.dtype), None, None, value_gain, value_bias, True, 0.0, eps[1])
    query = query.view(*maps, depths.heads, depths.key_depth)
    values = values.view(*maps, depths.intra_depth, depths.value_depth)
    content = table.new_zeros(maps[0], depths.key_depth, depths.value_depth)
    if depths.content:
        keys = keys.to(table.dtype).view(maps[0], -1, depths.intra_depth, depths.key_depth)
        content = content_lambda(keys, values.flatten(1, 2))
    y = kernel.scores_kernel(query, values, table, content)
    return y.flatten(3).permute(0, 3, 1, 2).to(x.dtype)


def to_rows(x: Tensor) -> Tensor:
    """(B, C, H, W) → (B·H·W, C)."""
    return x.permute(0, 2, 3, 1).contiguous().view(-1, x.shape[1])


def from_rows(maps: Tensor, like: Tensor) -> Tensor:
    """(B, H, W, C) → (B, C, H, W) in the memory format of another map of that size."""
    if not like.is_contiguous():
        return maps.permute(0, 3, 1, 2)
    return passes.transpose(maps.contiguous().flatten(1, 2)).view(like.shape)


def split_columns(rows: Tensor, depths: Depths) -> tuple[Tensor, ...]:
    """Split (B·H·W, h·k + u·v + u·k) into the columns of queries, values and keys."""
    return rows.split([depths.queries, depths.values, depths.keys], 1)


def by_key(keys: Tensor, depths: Depths) -> Tensor:
    """(B, m, u·k) → (B, m·u, k)."""
    return keys.view(keys.shape[0], -1, depths.key_depth)


def by_value(values: Tensor) -> Tensor:
    """(B, H, W, u, v) → (B, m·u, v)."""
    return values.reshape(values.shape[0], -1, values.shape[4])
