"""Blocks per stage of the named depths."""

from collections.abc import Sequence

from lambdanets.errors import UserError

# 26 to 152 as He et al. (2016) and Wightman et al. (2021), the deeper ones as ResNet-RS (Bello et al. 2021).
DEPTHS: dict[int, tuple[int, ...]] = {
    26: (2, 2, 2, 2),
    50: (3, 4, 6, 3),
    101: (3, 4, 23, 3),
    152: (3, 8, 36, 3),
    200: (3, 24, 36, 3),
    270: (4, 29, 53, 4),
    350: (4, 36, 72, 4),
    420: (4, 44, 87, 4),
}


def blocks_per_stage(depth: int | Sequence[int]) -> tuple[int, ...]:
    """A named depth such as 50, or the blocks per stage themselves.

    Raises:
        UserError: a depth that has no name, or a stage without blocks.
    """
    if isinstance(depth, int):
        if depth not in DEPTHS:
            raise UserError(
                f"depth={depth} is not a known ResNet; choose one of {', '.join(map(str, DEPTHS))} or give the blocks "
                "per stage, such as [1,1,1,1]."
            )
        return DEPTHS[depth]
    if not depth or min(depth) < 1:
        raise UserError(f"depth={list(depth)} must name at least one stage, and at least one block for each.")
    return tuple(depth)
