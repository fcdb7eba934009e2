"""The content lambda, and how its keys may be normalized."""

from typing import Literal

import torch
from torch import Tensor

KeyNorm = Literal["softmax", "l2", "none"]


def content_lambda(keys: Tensor, values: Tensor, norm: KeyNorm = "softmax") -> Tensor:
    """λc = Σ_m K̄_m v_mᵀ: what the context holds, the same for every query (paper, section 3.1).

    Args:
        keys: (B, m, u, k), not yet normalized.
        values: (B, m, u, v).
        norm: see `normalize_keys`.

    Returns:
        (B, k, v), summed over the intra-depth u.
    """
    return torch.bmm(normalize_keys(keys, norm, 1).flatten(1, 2).mT, values.flatten(1, 2))


def normalize_keys(keys: Tensor, norm: KeyNorm, dim: int) -> Tensor:
    """Keys normalized over the context's positions, each key channel by itself; in float32 at least (section 5.1).

    Args:
        keys: logits.
        norm: softmax; l2 divides by the Euclidean norm; none leaves them as they are.
        dim: the axis of the context's positions.
    """
    if norm == "none":
        return keys
    exact = torch.promote_types(keys.dtype, torch.float32)
    if norm == "softmax":
        return keys.softmax(dim, dtype=exact).to(keys.dtype)
    return torch.nn.functional.normalize(keys.to(exact), dim=dim).to(keys.dtype)
