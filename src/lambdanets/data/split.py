"""A validation split cut from the training images."""

import torch
from torch import Tensor

from lambdanets.errors import UserError


def split_indices(size: int, held_out: float | int, seed: int) -> tuple[Tensor, Tensor]:
    """Split range(size) at random into two sorted tensors of indices, a function of the arguments only.

    Args:
        size: number of images.
        held_out: size of the second part, as a fraction of all (below 1) or as a number of images.
        seed: seed of the choice.

    Returns:
        The indices of the first part and of the held-out part.

    Raises:
        UserError: one of the two parts would be empty.
    """
    count = round(size * held_out) if held_out < 1 else int(held_out)
    if not 0 < count < size:
        raise UserError(
            f"data.val_size={held_out} leaves no training or no validation images of {size}: change data.val_size or "
            "add images."
        )
    order = torch.randperm(size, generator=torch.Generator().manual_seed(seed))
    return order[count:].sort().values, order[:count].sort().values
