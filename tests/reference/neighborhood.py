"""Layers on the r × r neighborhood of each position, pair by pair."""

import numpy as np


def neighbors(n, size, scope):
    """The existing positions around n, with their indices from 0 to r − 1 in the neighborhood."""
    for a in range(scope):
        for b in range(scope):
            m = n[0] + a - scope // 2, n[1] + b - scope // 2
            if 0 <= m[0] < size[0] and 0 <= m[1] < size[1]:
                yield a, b, m


def softmax(logits):
    weights = np.exp(np.array(logits) - max(logits))
    return weights / weights.sum()


def local_attention(x, weight_q, weight_k, weight_v, row_table, column_table, *, heads):
    """Ramachandran et al. (2019), equation 3, with scaled logits: (d, H, W) → (d, H, W); tables (r, h, d_h / 2)."""
    d, height, width = x.shape
    depth, scope = d // heads, len(row_table)
    y = np.zeros_like(x)
    for h in range(heads):
        rows = slice(h * depth, (h + 1) * depth)
        for n in np.ndindex(height, width):
            q = weight_q[rows] @ x[:, n[0], n[1]]
            logits, values = [], []
            for a, b, m in neighbors(n, (height, width), scope):
                r = np.concatenate([row_table[a, h], column_table[b, h]])
                logits.append(q @ (weight_k[rows] @ x[:, m[0], m[1]] + r) / np.sqrt(depth))
                values.append(weight_v[rows] @ x[:, m[0], m[1]])
            y[rows, n[0], n[1]] = softmax(logits) @ np.array(values)
    return y


def local_relation(x, weight_q, weight_k, prior, *, group_channels):
    """Hu et al. (2019), equations 2 to 4: (d, H, W) → (d, H, W); prior from an offset on [−1, 1]² to (groups,)."""
    d, height, width = x.shape
    groups = d // group_channels
    scope = prior.scope
    y = np.zeros_like(x)
    for g in range(groups):
        rows = slice(g * group_channels, (g + 1) * group_channels)
        for n in np.ndindex(height, width):
            q = weight_q[g] @ x[:, n[0], n[1]]
            logits, values = [], []
            for a, b, m in neighbors(n, (height, width), scope):
                k = weight_k[g] @ x[:, m[0], m[1]]
                offset = np.array([a - scope // 2, b - scope // 2]) / max(scope // 2, 1)
                logits.append(-((q - k) ** 2) + prior(offset)[g])
                values.append(x[rows, m[0], m[1]])
            y[rows, n[0], n[1]] = softmax(logits) @ np.array(values)
    return y


def patchwise(x, phi, psi, first, bias, last, last_bias, *, scope, group_channels):
    """Zhao et al. (2020), equations 4 to 6: (d, H, W) → (d, H, W).

    phi, psi: (narrow, d); first: (narrow, (1 + r²) · narrow), a layer on the concatenation of φ(x_n) and of ψ(x_m) for
    all m of the patch, row by row; last: (r² · groups, narrow), position by position.
    """
    d, height, width = x.shape
    y = np.zeros_like(x)
    for n in np.ndindex(height, width):
        patch = np.zeros((scope, scope, len(psi)))
        for a, b, m in neighbors(n, (height, width), scope):
            patch[a, b] = psi @ x[:, m[0], m[1]]
        hidden = np.maximum(first @ np.concatenate([phi @ x[:, n[0], n[1]], patch.ravel()]) + bias, 0)
        weights = (last @ hidden + last_bias).reshape(scope, scope, d // group_channels)
        for a, b, m in neighbors(n, (height, width), scope):
            y[:, n[0], n[1]] += np.repeat(weights[a, b], group_channels) * x[:, m[0], m[1]]
    return y
