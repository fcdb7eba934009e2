"""Tables of relative position embeddings: (k, u, rows, columns), with the embedding of offset (0, 0) in the middle."""

from collections.abc import Sequence

import torch
from torch import Tensor
from torch.nn import functional as F

Size = tuple[int, int]


def scope_to_offsets(table: Tensor, queries: Size, context: Size | None = None) -> Tensor:
    """Lay a table out over all offsets from a query to a position of the context.

    Args:
        table: (k, u, R, C).
        queries: (H, W), the map of queries.
        context: (H', W'), the map of the context, with the same origin; defaults to the map of queries.

    Returns:
        (k, u, H + H' − 1, W + W' − 1), entry (i, j) for the offset (i − H + 1, j − W + 1). Embeddings outside of the
        scope are zero; offsets that don't occur are cut off.
    """
    return F.pad(table, margins(table.shape[2:], queries, context or queries))


def offsets_to_scope(offsets: Tensor, scope: Sequence[int], queries: Size, context: Size | None = None) -> Tensor:
    """Return the gradient of an R × C table, given those of all offsets: the transpose of `scope_to_offsets`."""
    return F.pad(offsets, [-margin for margin in margins(scope, queries, context or queries)])


def margins(scope: Sequence[int], queries: Size, context: Size) -> list[int]:
    padding = []
    for side, query_side, context_side in reversed([*zip(scope, queries, context, strict=True)]):
        padding += [query_side - 1 - side // 2, context_side - 1 - side // 2]
    return padding


def resize_table(table: Tensor, height: int, width: int) -> Tensor:
    """Interpolate the table of one feature size to the (2H − 1) × (2W − 1) offsets of another.

    Bilinear; the outermost offsets and the middle stay in place, so that an embedding's distance keeps its ratio to
    the map's size. A map of one row or column has the middle only.
    """
    size = (2 * height - 1, 2 * width - 1)
    if tuple(table.shape[2:]) == size:
        return table
    for axis, side in enumerate(size, 2):
        if side == 1:
            table = table.narrow(axis, table.shape[axis] // 2, 1)
    return F.interpolate(table, size=size, mode="bilinear", align_corners=True)


def hide_later_positions(table: Tensor) -> Tensor:
    """Set the embeddings of offsets to positions after a query, in raster order, to zero.

    Position lambdas of the result are causal, whatever the size of the map and the dilation.
    """
    rows, columns = table.shape[2:]
    offsets = torch.arange(rows * columns, device=table.device).view(rows, columns)
    return table * (offsets <= rows * columns // 2)


def dilate_table(table: Tensor, dilation: int) -> Tensor:
    """Insert zeros between a table's entries, so that they are `dilation` positions apart."""
    if dilation == 1:
        return table
    rows, columns = (dilation * (side - 1) + 1 for side in table.shape[2:])
    spread = table.new_zeros(*table.shape[:2], rows, columns)
    spread[..., ::dilation, ::dilation] = table
    return spread
