"""The content lambda."""

import torch
from torch import Tensor


def content_lambda(keys: Tensor, values: Tensor) -> Tensor:
    """λc = Σ_m softmax(K)_m v_mᵀ: what the context holds, the same for every query (paper, section 3.1).

    Args:
        keys: (B, k, u, m), not yet normalised; the softmax runs over the m context positions, in float32 at least.
        values: (B, u, v, m).

    Returns:
        (B, k, v), summed over the intra-depth u.
    """
    weights = keys.softmax(-1, dtype=torch.promote_types(keys.dtype, torch.float32)).to(values.dtype)
    return torch.einsum("bkum,buvm->bkv", weights, values)
