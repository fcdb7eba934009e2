"""The content lambda and the normalization of its keys."""

from typing import Literal

import torch
from torch import Tensor

KeyNorm = Literal["softmax", "l2", "none"]


def content_lambda(keys: Tensor, values: Tensor, norm: KeyNorm = "softmax") -> Tensor:
    """Compute λc = Σ_m K̄_m v_mᵀ, which all queries share (paper, section 3.1).

    Args:
        keys: (B, m, u, k), not yet normalized.
        values: (B, m, u, v).
        norm: normalization of the keys, see `normalize_keys`.

    Returns:
        (B, k, v), summed over the intra-depth u.
    """
    return torch.bmm(normalize_keys(keys, norm, 1).flatten(1, 2).mT, values.flatten(1, 2))


def normalize_keys(keys: Tensor, norm: KeyNorm, dim: int) -> Tensor:
    """Normalize each channel of the keys over the context's positions, in float32 at least (paper, section 5.1).

    Args:
        keys: logits.
        norm: "softmax"; "l2", which divides by the Euclidean norm; or "none".
        dim: axis of the context's positions.
    """
    if norm == "none":
        return keys
    exact = torch.promote_types(keys.dtype, torch.float32)
    if norm == "softmax":
        return keys.softmax(dim, dtype=exact).to(keys.dtype)
    return torch.nn.functional.normalize(keys.to(exact), dim=dim).to(keys.dtype)
