"""Tables of relative position embeddings: (k, u, rows, columns), the embedding of offset (0, 0) in the middle."""

from torch import Tensor
from torch.nn import functional as F


def scope_to_offsets(table: Tensor, height: int, width: int) -> Tensor:
    """Lays a table of r × r offsets out over all offsets of an H × W map: (k, u, 2H − 1, 2W − 1).

    Offsets outside of the scope become zero, offsets that the map doesn't have are cut off.
    """
    rows, columns = table.shape[2:]
    above = height - 1 - rows // 2
    left = width - 1 - columns // 2
    return F.pad(table, (left, left, above, above))


def resize_table(table: Tensor, height: int, width: int) -> Tensor:
    """Stretches the table of one feature size to the (2H − 1) × (2W − 1) offsets of another.

    Bilinear, with the outermost offsets and the middle kept in place, so that an embedding stands for the same
    share of the map as before.
    """
    size = (2 * height - 1, 2 * width - 1)
    if tuple(table.shape[2:]) == size:
        return table
    return F.interpolate(table, size=size, mode="bilinear", align_corners=True)
