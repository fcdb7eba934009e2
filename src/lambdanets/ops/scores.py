"""Scores first: s_nm^h = q_n^h · E_nm, then y_n^h = Σ_m s_nm^h v_m.

The sums of the paper in the other order: 2·n·m·h·(k + v) FLOPs instead of 2·n·m·k·v. There is no softmax
between the two products, so a few rows of queries are computed at a time, and again in the backward: all n × m scores
never exist at once.
"""

from collections.abc import Iterator

import torch
from torch import Tensor

from lambdanets.ops.custom_op import Scratch, define_op
from lambdanets.ops.table import Size, offsets_to_scope, scope_to_offsets

# Scores held at a time: on a CPU as many as fit its caches, on a GPU enough to keep it busy.
CHUNK = {"cpu": 3 * 2**17, "cuda": 2**26}


def forward(query: Tensor, values: Tensor, table: Tensor, content: Tensor, saved: Tensor) -> Tensor:
    batch, height, width, heads, _ = query.shape
    context, size = mirror(values), (values.shape[1], values.shape[2])
    offsets = mirror_offsets(table, (height, width), size)
    y = torch.bmm(repeat_per_head(content.mT, heads), by_head(query, slice(0, height)))
    context, scratch = repeat_per_head(context, heads), Scratch(query)
    for rows in row_chunks(query, context):
        scores = scratch.product("scores", by_position(query[:, rows]), query_embeddings(offsets, rows, size).mT)
        out = scratch.product("y", context, scores.permute(1, 2, 0))
        y[:, :, rows.start * width : rows.stop * width] += out
    return y.view(batch, heads, -1, height, width).permute(0, 3, 4, 1, 2)


def backward(
    grad: Tensor, query: Tensor, values: Tensor, table: Tensor, content: Tensor, saved: Tensor
) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    batch, height, width, heads, _ = query.shape
    context, size = mirror(values), (values.shape[1], values.shape[2])
    offsets = mirror_offsets(table, (height, width), size)
    all_rows = slice(0, height)
    d_query = torch.bmm(repeat_per_head(content, heads), by_head(grad, all_rows))
    d_content = (
        torch.bmm(by_head(query, all_rows), by_head(grad, all_rows).mT).view(batch, heads, -1, grad.shape[4]).sum(1)
    )
    d_context = torch.zeros_like(context)
    d_offsets = torch.zeros_like(offsets, dtype=torch.promote_types(offsets.dtype, torch.float32))
    scratch = Scratch(query)
    for rows in row_chunks(query, context):
        q, embeddings, g = by_position(query[:, rows]), query_embeddings(offsets, rows, size), by_head(grad, rows)
        scores = scratch.product("scores", q, embeddings.mT)
        for head in range(heads):
            g_head, scores_head = g[head::heads], scores[:, head::heads]
            d_context.baddbmm_(g_head, scores_head.transpose(0, 1))
            # The gradient of the scores replaces them.
            scores_head.copy_(scratch.product("d scores", g_head.mT, context).transpose(0, 1))
        d_q = scratch.product("d query", scores, embeddings)
        d_query[:, :, rows.start * width : rows.stop * width] += d_q.permute(1, 2, 0)
        d_embeddings = scratch.product("d embeddings", scores.mT, q)
        add_windows(d_offsets, rows, d_embeddings.view(-1, width, values.shape[3], *size, q.shape[2]))
    d_query = d_query.view(batch, heads, -1, height, width).permute(0, 3, 4, 1, 2)
    d_values = d_context.unflatten(2, (values.shape[3], *size)).permute(0, 3, 4, 2, 1).flip(1, 2)
    d_table = offsets_to_scope(d_offsets.permute(3, 2, 0, 1).flip(2, 3), table.shape[2:], (height, width), size)
    return d_query, d_values, d_table.to(table.dtype), d_content


scores_first = define_op("scores_first", forward, backward, channels_first=True)


def row_chunks(query: Tensor, context: Tensor) -> Iterator[slice]:
    """Yield rows of the map of queries, so many at a time that about CHUNK scores exist at once."""
    batch, height, width, heads, _ = query.shape
    limit = CHUNK.get(query.device.type, CHUNK["cuda"])
    step = max(1, limit // max(1, batch * heads * width * context.shape[2]))
    for start in range(0, height, step):
        yield slice(start, min(height, start + step))


def mirror(values: Tensor) -> Tensor:
    """Reverse the order of the context's positions: (B, H', W', u, v) → (B, v, u·m).

    In a mirrored context the embeddings of the next query start one entry later, so that the embeddings of all queries
    are one strided view of the (mirrored) table.
    """
    return values.flip(1, 2).permute(0, 4, 3, 1, 2).flatten(2)


def mirror_offsets(table: Tensor, queries: Size, context: Size) -> Tensor:
    """Lay a table out over all offsets, in reverse: (H + H' − 1, W + W' − 1, u, k)."""
    return scope_to_offsets(table, queries, context).flip(2, 3).permute(2, 3, 1, 0).contiguous()


def query_embeddings(offsets: Tensor, rows: slice, context: Size) -> Tensor:
    """Return E_nm of the queries in some rows and the mirrored context: (n, u·m, k)."""
    windows = offsets.unfold(0, context[0], 1).unfold(1, context[1], 1)[rows]
    return windows.permute(0, 1, 2, 4, 5, 3).flatten(0, 1).flatten(1, 3)


def add_windows(offsets: Tensor, rows: slice, windows: Tensor) -> None:
    """Add (rows, W, u, H', W', k) to the offsets of each pair: the transpose of `query_embeddings`."""
    windows = windows.permute(0, 1, 3, 4, 2, 5)
    by_row = sum_shifted(windows.transpose(1, 2).flatten(0, 1)).unflatten(0, (len(windows), -1))
    offsets[rows.start : rows.start + len(windows) + windows.shape[2] - 1] += sum_shifted(by_row[None])[0]


def sum_shifted(windows: Tensor) -> Tensor:
    """Sum windows, each of which starts one entry later than the one before: (·, W, W', …) → (·, W + W' − 1, …)."""
    batch, count, length, *rest = windows.shape
    skewed = windows.new_zeros(batch, count, count + length, *rest)
    strides = skewed.stride()
    diagonals = skewed.as_strided(windows.shape, (strides[0], strides[1] + strides[2], *strides[2:]))
    diagonals.copy_(windows)
    return skewed.sum(1)[:, : count + length - 1]


def by_position(query: Tensor) -> Tensor:
    """(B, H, W, h, k) → (n, B·h, k)."""
    return query.permute(1, 2, 0, 3, 4).flatten(0, 1).flatten(1, 2).contiguous()


def by_head(query: Tensor, rows: slice) -> Tensor:
    """(B, H, W, h, k) → (B·h, k, n) of some rows; a view, if the layout in memory is channels first."""
    return query[:, rows].permute(0, 3, 4, 1, 2).flatten(3).flatten(0, 1)


def repeat_per_head(shared: Tensor, heads: int) -> Tensor:
    """(B, ·, ·) → (B·h, ·, ·)."""
    return shared.repeat_interleave(heads, 0)
