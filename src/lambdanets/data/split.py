"""A validation split cut from the training images."""

import torch
from torch import Tensor

from lambdanets.errors import UserError


def seeded_split(size: int, held_out: float | int, seed: int) -> tuple[Tensor, Tensor]:
    """Indices of the kept and of the held-out images: disjoint, complete, in order, and a function of the seed only.

    Args:
        size: number of images.
        seed: of the choice.
        held_out: how many to hold out, as a share of all (a fraction below 1) or as their number.

    Raises:
        UserError: nothing would be left on one of the two sides.
    """
    count = round(size * held_out) if held_out < 1 else int(held_out)
    if not 0 < count < size:
        raise UserError(
            f"Holding out {held_out} of {size} training images for validation leaves one side empty; change "
            "data.val_size or add images."
        )
    order = torch.randperm(size, generator=torch.Generator().manual_seed(seed))
    return order[count:].sort().values, order[:count].sort().values
