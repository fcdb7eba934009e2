"""Lambdas of masked contexts: a query sees some positions only, such as those before it (paper, appendix B)."""

from math import prod

import torch
from torch import Tensor
from torch.utils.checkpoint import checkpoint

from lambdanets.ops.content import KeyNorm, normalize_keys
from lambdanets.ops.scores import embeddings, mirrored_offsets
from lambdanets.ops.table import dilate_table

# Elements of the masked keys that are held at a time.
CHUNK = 2**22


def masked_lambda_map(
    query: Tensor,
    keys: Tensor | None,
    values: Tensor,
    table: Tensor | None,
    mask: Tensor,
    norm: KeyNorm = "softmax",
    dilation: int = 1,
) -> Tensor:
    """y_n^h = Σ_m∈seen(n) (q_n^h · (K̄_nm + E_nm)) v_m: positions that a query may not see have no key and no embedding.

    Keys are normalized over the positions that the query sees, so that nothing of the others leaks through the
    normalizer; a query that sees none gets 0. A few rows of queries are done at a time and recomputed in the backward.

    Args:
        query: (B, H, W, h, k).
        keys: (B, H', W', u, k), or None for position lambdas alone.
        values: (B, H', W', u, v).
        table: (k, u, R, C), or None for content lambdas alone.
        mask: boolean (n, m) or (B, n, m), true where query n sees position m, both in raster order.
        norm: as in `content_lambda`.
        dilation: distance in positions between neighbouring entries of the table.

    Returns:
        (B, H, W, h, v).
    """
    batch, height, width, _, key_depth = query.shape
    size = values.shape[1], values.shape[2]
    mask = mask.expand(batch, -1, -1).unflatten(1, (height, width))
    offsets = None if table is None else mirrored_offsets(dilate_table(table, dilation), (height, width), size)
    # In a graph with an open batch a usual one stands for it.
    images = 8 if torch.compiler.is_compiling() else batch
    step = max(1, CHUNK // max(1, images * width * key_depth * values.shape[3] * prod(size)))
    parts = []
    for start in range(0, height, step):
        stop = min(height, start + step)
        inputs = query, keys, values, offsets, mask, start, stop, norm
        if torch.is_grad_enabled():
            parts.append(checkpoint(some_rows, *inputs, use_reentrant=False))
        else:
            parts.append(some_rows(*inputs))
    return torch.cat(parts, 1)


def some_rows(
    query: Tensor,
    keys: Tensor | None,
    values: Tensor,
    offsets: Tensor | None,
    mask: Tensor,
    start: int,
    stop: int,
    norm: KeyNorm,
) -> Tensor:
    part = query[:, start:stop].flatten(1, 2)
    seen = mask[:, start:stop].flatten(1, 2)[:, :, None, None]  # (B, n, 1, 1, m)
    scores = query.new_zeros(())
    if offsets is not None:
        # `embeddings` counts the context's positions backwards.
        windows = embeddings(offsets, slice(start, stop), (values.shape[1], values.shape[2]))
        windows = windows.unflatten(1, (values.shape[3], -1)).flip(2)
        scores = torch.einsum("bnhk,numk->bhnum", part, windows) * seen[:, :, 0].unsqueeze(1)
    if keys is not None:
        allowed = keys.flatten(1, 2).permute(0, 3, 2, 1)[:, None]  # (B, 1, k, u, m)
        if norm == "softmax":
            # A query that sees nothing would have the softmax of nothing.
            hidden = allowed.masked_fill(~seen, float("-inf")).masked_fill(~seen.any(-1, keepdim=True), 0)
            weights = normalize_keys(hidden, norm, -1) * seen
        else:
            weights = normalize_keys(allowed * seen, norm, -1)
        scores = scores + torch.einsum("bnhk,bnkum->bhnum", part, weights)
    y = torch.einsum("bhnum,bmuv->bnhv", scores, values.flatten(1, 2))
    return y.unflatten(1, (stop - start, -1))


def causal_mask(length: int, device: torch.device | None = None) -> Tensor:
    """(n, n): each position sees itself and those before it, in raster order on a map."""
    return torch.ones(length, length, dtype=torch.bool, device=device).tril()
