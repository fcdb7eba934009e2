"""Scores first: s_nm^h = q_n^h · E_nm, then y_n^h = Σ_m s_nm^h v_m.

The sums of the paper in the other order: 2·n·m·h·(k + v) multiply-adds instead of 2·n·m·k·v. No softmax stands between
the two products, so a few rows of queries are done at a time and once more in the backward: the n × m scores never
exist as a whole.
"""

from collections.abc import Iterator

import torch
from torch import Tensor

from lambdanets.ops.library import operator
from lambdanets.ops.table import Size, offsets_to_scope, scope_to_offsets

# How many scores are held at a time: on a CPU what its caches hold, on a GPU what keeps it busy.
CHUNK = {"cpu": 2**19, "cuda": 2**26}


def forward(query: Tensor, values: Tensor, table: Tensor, content: Tensor) -> Tensor:
    batch, height, width, heads, _ = query.shape
    context, size = mirrored(values), (values.shape[1], values.shape[2])
    by_head = context.repeat_interleave(heads, 0)
    offsets = mirrored_offsets(table, (height, width), size)
    y = query.new_empty(*query.shape[:4], values.shape[4])
    for rows in row_chunks(query, context):
        scores = torch.bmm(by_position(query[:, rows]), embeddings(offsets, rows, size).mT)
        out = torch.bmm(scores.transpose(0, 1), by_head)
        y[:, rows] = out.view(batch, heads, -1, width, y.shape[4]).permute(0, 2, 3, 1, 4)
    y.flatten(1, 3).baddbmm_(query.flatten(1, 3), content)
    return y


def backward(
    grad: Tensor, query: Tensor, values: Tensor, table: Tensor, content: Tensor
) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    batch, height, width, heads, key_depth = query.shape
    context, size = mirrored(values), (values.shape[1], values.shape[2])
    by_head = context.repeat_interleave(heads, 0).mT
    offsets = mirrored_offsets(table, (height, width), size)
    d_query, d_context = query.new_empty(query.shape), torch.zeros_like(context)
    d_offsets = torch.zeros_like(offsets, dtype=torch.promote_types(offsets.dtype, torch.float32))
    for rows in row_chunks(query, context):
        q, keys = by_position(query[:, rows]), embeddings(offsets, rows, size)
        g = grad[:, rows].permute(0, 3, 1, 2, 4).flatten(0, 1).flatten(1, 2)  # (B·h, n, v)
        scores = torch.bmm(q, keys.mT)
        d_context += torch.bmm(scores.transpose(0, 1).mT, g).unflatten(0, (batch, heads)).sum(1)
        d_scores = scores
        torch.bmm(g, by_head, out=d_scores.transpose(0, 1))
        d_q = torch.bmm(d_scores, keys).view(-1, width, batch, heads, key_depth)
        d_query[:, rows] = d_q.permute(2, 0, 1, 3, 4)
        add_windows(d_offsets, rows, torch.bmm(d_scores.mT, q).view(-1, width, *size, *offsets.shape[2:]))
    flat_grad, flat_query = grad.flatten(1, 3), query.flatten(1, 3)
    d_query.flatten(1, 3).baddbmm_(flat_grad, content.mT)
    d_values = d_context.view(values.shape).flip(1, 2)
    d_table = offsets_to_scope(d_offsets.permute(3, 2, 0, 1).flip(2, 3), table.shape[2:], (height, width), size)
    return d_query, d_values, d_table.to(table.dtype), torch.bmm(flat_query.mT, flat_grad)


scores_first = operator("scores_first", forward, backward)


def row_chunks(query: Tensor, context: Tensor) -> Iterator[slice]:
    """Rows of the map of queries, about as many at a time as CHUNK allows."""
    batch, height, width, heads, _ = query.shape
    held = CHUNK.get(query.device.type, CHUNK["cuda"])
    step = max(1, held // max(1, batch * heads * width * context.shape[1]))
    for start in range(0, height, step):
        yield slice(start, min(height, start + step))


def mirrored(values: Tensor) -> Tensor:
    """(B, H', W', u, v) → (B, m·u, v), the context's positions in reverse.

    In a mirrored context the embeddings of the next query start one entry further on, so that all of them are one
    strided view of the (mirrored) table.
    """
    return values.flip(1, 2).flatten(1, 3)


def mirrored_offsets(table: Tensor, queries: Size, context: Size) -> Tensor:
    """All offsets, in reverse: (H + H' − 1, W + W' − 1, u, k)."""
    return scope_to_offsets(table, queries, context).flip(2, 3).permute(2, 3, 1, 0).contiguous()


def embeddings(offsets: Tensor, rows: slice, context: Size) -> Tensor:
    """E_nm of the queries in some rows and the mirrored context: (n, m·u, k)."""
    windows = offsets.unfold(0, context[0], 1).unfold(1, context[1], 1)[rows]
    return windows.permute(0, 1, 4, 5, 2, 3).flatten(0, 1).flatten(1, 3)


def add_windows(offsets: Tensor, rows: slice, windows: Tensor) -> None:
    """The transpose of `embeddings`: adds (rows, W, H', W', u, k) to the offsets that they stand for."""
    count, width, high, wide, *depths = windows.shape
    by_row = offsets.new_zeros(count, high, offsets.shape[1], *depths)
    for x in range(width):
        by_row[:, :, x : x + wide] += windows[:, x]
    for y in range(count):
        offsets[rows.start + y : rows.start + y + high] += by_row[y]


def by_position(query: Tensor) -> Tensor:
    """(B, H, W, h, k) → (n, B·h, k)."""
    return query.permute(1, 2, 0, 3, 4).flatten(0, 1).flatten(1, 2)
