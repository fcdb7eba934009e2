"""Self-attention with 2D relative positions, pair by pair (Bello et al. 2019, section 3.2)."""

import numpy as np


def attention(x, weight_q, weight_k, weight_v, row_table, column_table, *, heads):
    """One image (d, H, W) → (rows of the projections, H, W); tables (2H − 1, d_h) and (2W − 1, d_h)."""
    _, height, width = x.shape
    depth = len(weight_q) // heads
    positions = [(i, j) for i in range(height) for j in range(width)]
    y = np.zeros((len(weight_v), height, width))
    for h in range(heads):
        rows = slice(h * depth, (h + 1) * depth)
        for n in positions:
            q = weight_q[rows] @ x[:, n[0], n[1]]
            logits = []
            for m in positions:
                k = weight_k[rows] @ x[:, m[0], m[1]]
                r = row_table[m[0] - n[0] + height - 1] + column_table[m[1] - n[1] + width - 1]
                logits.append(q @ (k + r) / np.sqrt(depth))
            weights = np.exp(np.array(logits) - max(logits))
            weights /= weights.sum()
            y[rows, n[0], n[1]] = sum(
                w * (weight_v[rows] @ x[:, m[0], m[1]]) for w, m in zip(weights, positions, strict=True)
            )
    return y
