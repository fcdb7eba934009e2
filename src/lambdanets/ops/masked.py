"""Lambdas of masked contexts: a query sees only some positions, such as those before it (paper, appendix B)."""

from math import prod

import torch
from torch import Tensor
from torch.utils.checkpoint import checkpoint

from lambdanets.ops.content import KeyNorm, normalize_keys
from lambdanets.ops.cost import GRAPH_BATCH
from lambdanets.ops.custom_op import is_transformed
from lambdanets.ops.scores import mirror_offsets, query_embeddings
from lambdanets.ops.table import dilate_table

# Elements of the masked keys held at a time.
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
    """Compute y_n^h = Σ_m (q_n^h · (K̄_nm + E_nm)) v_m over the positions m that are visible to query n.

    Keys are normalized over the visible positions, so that hidden ones have no influence through the normalizer either.
    A query without a visible position gets 0. A few rows of queries are computed at a time, and again in the backward.

    Args:
        query: (B, H, W, h, k).
        keys: (B, H', W', u, k), or None for position lambdas alone.
        values: (B, H', W', u, v).
        table: (k, u, R, C), or None for content lambdas alone.
        mask: boolean (n, m) or (B, n, m), true where query n sees position m, both in raster order.
        norm: normalization of the keys, as in `content_lambda`.
        dilation: distance in positions between neighboring entries of the table.

    Returns:
        (B, H, W, h, v).
    """
    batch, height, width, _, key_depth = query.shape
    size = values.shape[1], values.shape[2]
    mask = mask.expand(batch, -1, -1).unflatten(1, (height, width))
    offsets = None if table is None else mirror_offsets(dilate_table(table, dilation), (height, width), size)
    # The chunks of a compiled graph must not depend on its open batch.
    images = GRAPH_BATCH if torch.compiler.is_compiling() else batch
    step = max(1, CHUNK // max(1, images * width * key_depth * values.shape[3] * prod(size)))
    parts = []
    for start in range(0, height, step):
        stop = min(height, start + step)
        inputs = query, keys, values, offsets, mask, start, stop, norm
        if torch.is_grad_enabled() and not is_transformed():
            parts.append(checkpoint(map_rows, *inputs, use_reentrant=False))
        else:
            parts.append(map_rows(*inputs))
    return torch.cat(parts, 1)


def map_rows(
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
    visible = mask[:, start:stop].flatten(1, 2)[:, :, None, None]  # (B, n, 1, 1, m)
    scores = query.new_zeros(())
    if offsets is not None:
        # `query_embeddings` counts the context's positions backwards.
        windows = query_embeddings(offsets, slice(start, stop), (values.shape[1], values.shape[2]))
        windows = windows.unflatten(1, (values.shape[3], -1)).flip(2)
        scores = torch.einsum("bnhk,numk->bhnum", part, windows) * visible[:, :, 0].unsqueeze(1)
    if keys is not None:
        logits = keys.flatten(1, 2).permute(0, 3, 2, 1)[:, None]  # (B, 1, k, u, m)
        if norm == "softmax":
            # A softmax over nothing but −∞ would be NaN.
            logits = logits.masked_fill(~visible, float("-inf")).masked_fill(~visible.any(-1, keepdim=True), 0)
            weights = normalize_keys(logits, norm, -1) * visible
        else:
            weights = normalize_keys(logits * visible, norm, -1)
        scores = scores + torch.einsum("bnhk,bnkum->bhnum", part, weights)
    y = torch.einsum("bhnum,bmuv->bnhv", scores, values.flatten(1, 2))
    return y.unflatten(1, (stop - start, -1))


def causal_mask(length: int, device: torch.device | None = None) -> Tensor:
    """Return the mask (n, n) with which a position sees itself and those before it, on a map in raster order."""
    return torch.ones(length, length, dtype=torch.bool, device=device).tril()
