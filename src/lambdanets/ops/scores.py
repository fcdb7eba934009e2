"""Scores first: s_nm^h = q_n^h · E_nm, then y_n^h = Σ_m s_nm^h v_m.

The sums of the paper in the other order: 2·n·m·h·(k + v) multiply-adds instead of 2·n·m·k·v. No softmax stands between
the two products, so a few rows of queries are done at a time and once more in the backward: the n × m scores never
exist as a whole.
"""

from collections.abc import Iterator

import torch
from torch import Tensor

from lambdanets.ops.library import operator
from lambdanets.ops.table import offsets_to_scope, scope_to_offsets

# How many scores are held at a time: on a CPU what its caches hold, on a GPU what keeps it busy.
CHUNK = {"cpu": 2**19, "cuda": 2**26}


def forward(query: Tensor, values: Tensor, table: Tensor, content: Tensor) -> Tensor:
    batch, height, width, heads, _ = query.shape
    context = mirrored(values)
    offsets = scope_to_offsets(table, (height, width), (values.shape[1], values.shape[2])).flip(2, 3)
    y = query.new_empty(*query.shape[:4], values.shape[4])
    for rows in row_chunks(query, context):
        chunk = query[:, rows]
        scores = scores_of(by_position(chunk), embeddings(offsets, rows, values), batch)
        out = torch.baddbmm(by_head(chunk) @ content, scores, context)
        y[:, rows] = out.view(batch, heads, -1, width, out.shape[2]).permute(0, 2, 3, 1, 4)
    return y


def backward(
    grad: Tensor, query: Tensor, values: Tensor, table: Tensor, content: Tensor
) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    batch, height, width, heads, key_depth = query.shape
    context = mirrored(values)
    sizes = (height, width), (values.shape[1], values.shape[2])
    offsets = scope_to_offsets(table, *sizes).flip(2, 3)
    d_query = query.new_empty(query.shape)
    d_context, d_content = torch.zeros_like(context), content.new_zeros(content.shape)
    d_offsets = torch.zeros_like(offsets, dtype=torch.promote_types(offsets.dtype, torch.float32))
    for rows in row_chunks(query, context):
        q, g = by_position(query[:, rows]), by_head(grad[:, rows])
        keys = embeddings(offsets, rows, values)
        scores = scores_of(q, keys, batch)
        d_context.baddbmm_(scores.transpose(1, 2), g)
        d_content.baddbmm_(by_head(query[:, rows]).transpose(1, 2), g)
        d_scores = torch.bmm(g, context.transpose(1, 2), out=scores)
        d_scores = d_scores.view(batch * heads, -1, context.shape[1]).transpose(0, 1)
        from_position = torch.bmm(d_scores, keys.transpose(1, 2)).view(-1, width, batch, heads, key_depth)
        from_content = (g @ content.transpose(1, 2)).view(batch, heads, -1, width, key_depth)
        torch.add(from_position.permute(2, 0, 1, 3, 4), from_content.permute(0, 2, 3, 1, 4), out=d_query[:, rows])
        d_keys = torch.bmm(q.transpose(1, 2), d_scores)
        add_windows(d_offsets, rows, d_keys.view(-1, width, *table.shape[:2], *sizes[1]))
    d_values = d_context.view(batch, values.shape[3], *sizes[1], -1).permute(0, 2, 3, 1, 4).flip(1, 2)
    d_table = offsets_to_scope(d_offsets.flip(2, 3), (table.shape[2], table.shape[3]), *sizes)
    return d_query, d_values, d_table.to(table.dtype), d_content


scores_first = operator("scores_first", forward, backward)


def row_chunks(query: Tensor, context: Tensor) -> Iterator[slice]:
    """Rows of the map of queries, as many at a time as CHUNK allows."""
    batch, height, width, heads, _ = query.shape
    step = CHUNK.get(query.device.type, CHUNK["cuda"]) // max(1, batch * heads * width * context.shape[1])
    for start in range(0, height, max(1, step)):
        yield slice(start, min(height, start + max(1, step)))


def mirrored(values: Tensor) -> Tensor:
    """(B, H', W', u, v) → (B, u·m, v), the context's positions in reverse.

    In a mirrored context the embeddings of the next query start one entry further on, so that all of them are one
    strided view of the (mirrored) table.
    """
    return values.flip(1, 2).permute(0, 3, 1, 2, 4).flatten(1, 3)


def embeddings(offsets: Tensor, rows: slice, values: Tensor) -> Tensor:
    """E_nm of the queries in some rows: (n, k, u·m) from the mirrored table of all offsets."""
    windows = offsets.unfold(2, values.shape[1], 1).unfold(3, values.shape[2], 1)[:, :, rows]
    return windows.permute(2, 3, 0, 1, 4, 5).flatten(0, 1).flatten(2)


def add_windows(offsets: Tensor, rows: slice, windows: Tensor) -> None:
    """The transpose of `embeddings`: adds (rows, W, k, u, H', W') to the offsets that they stand for."""
    count, width, *depths, high, wide = windows.shape
    by_row = offsets.new_zeros(count, *depths, high, offsets.shape[3])
    for x in range(width):
        by_row[..., x : x + wide] += windows[:, x]
    for y in range(count):
        offsets[:, :, rows.start + y : rows.start + y + high] += by_row[y]


def by_position(query: Tensor) -> Tensor:
    """(B, H, W, h, k) → (n, B·h, k)."""
    return query.permute(1, 2, 0, 3, 4).flatten(0, 1).flatten(1, 2)


def by_head(query: Tensor) -> Tensor:
    """(B, H, W, h, k) → (B, h·n, k)."""
    return query.permute(0, 3, 1, 2, 4).flatten(1, 3)


def scores_of(query: Tensor, keys: Tensor, batch: int) -> Tensor:
    """Q (n, B·h, k) and E (n, k, m) → s (B, h·n, m), written where the next product wants it."""
    count, rows, _ = query.shape
    scores = query.new_empty(rows, count, keys.shape[2])
    torch.bmm(query, keys, out=scores.transpose(0, 1))
    return scores.view(batch, -1, keys.shape[2])
