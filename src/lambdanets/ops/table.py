"""Tables of relative position embeddings: (k, u, rows, columns), the embedding of offset (0, 0) in the middle."""

from collections.abc import Sequence

from torch import Tensor
from torch.nn import functional as F

Size = tuple[int, int]


def scope_to_offsets(table: Tensor, queries: Size, context: Size | None = None) -> Tensor:
    """Lays a table out over all offsets from a query to a position of the context.

    Args:
        table: (k, u, R, C).
        queries: (H, W), the map of queries.
        context: (H', W'), the map of the context, with the same origin; by default the map of queries.

    Returns:
        (k, u, H + H' − 1, W + W' − 1), entry (i, j) for the offset (i − H + 1, j − W + 1). Offsets outside of the scope
        become zero, offsets that don't occur are cut off.
    """
    return F.pad(table, margins(table.shape[2:], queries, context or queries))


def offsets_to_scope(offsets: Tensor, scope: Sequence[int], queries: Size, context: Size | None = None) -> Tensor:
    """The transpose of `scope_to_offsets`: takes gradients of all offsets back to those of an R × C table."""
    return F.pad(offsets, [-margin for margin in margins(scope, queries, context or queries)])


def margins(scope: Sequence[int], queries: Size, context: Size) -> list[int]:
    padding = []
    for side, here, there in reversed([*zip(scope, queries, context, strict=True)]):
        padding += [here - 1 - side // 2, there - 1 - side // 2]
    return padding


def resize_table(table: Tensor, height: int, width: int) -> Tensor:
    """Stretches the table of one feature size to the (2H − 1) × (2W − 1) offsets of another.

    Bilinear, with the outermost offsets and the middle kept in place, so that an embedding stands for the same
    share of the map as before.
    """
    size = (2 * height - 1, 2 * width - 1)
    if tuple(table.shape[2:]) == size:
        return table
    return F.interpolate(table, size=size, mode="bilinear", align_corners=True)


def dilate_table(table: Tensor, dilation: int) -> Tensor:
    """The table with its entries that many positions apart, zeros between them."""
    if dilation == 1:
        return table
    rows, columns = (dilation * (side - 1) + 1 for side in table.shape[2:])
    spread = table.new_zeros(*table.shape[:2], rows, columns)
    spread[..., ::dilation, ::dilation] = table
    return spread
