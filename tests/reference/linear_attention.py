"""Linear attention from the papers' definitions, position by position."""

import numpy as np


def softmax(values, axis=None):
    weights = np.exp(values - values.max(axis, keepdims=True))
    return weights / weights.sum(axis, keepdims=True)


def double_attention(x, weight_a, weight_b, weight_v, weight_out):
    """Chen et al. (2018), equations 3 to 5: what is added to (d, n), before its norm."""
    features, maps, vectors = weight_a @ x, softmax(weight_b @ x, axis=1), softmax(weight_v @ x, axis=0)
    y = np.zeros((len(weight_a), x.shape[1]))
    for position in range(x.shape[1]):
        for i in range(len(maps)):
            gathered = sum(maps[i, m] * features[:, m] for m in range(x.shape[1]))
            y[:, position] += vectors[i, position] * gathered
    return weight_out @ y


def efficient_attention(x, weight_q, weight_k, weight_v, weight_out, *, heads):
    """Shen et al. (2018), equation 3, by the n × n attention map that it never forms: what is added to (d, n)."""
    depth = len(weight_q) // heads
    parts = []
    for h in range(heads):
        rows = slice(h * depth, (h + 1) * depth)
        query, key = softmax(weight_q[rows] @ x, axis=0), softmax(weight_k[rows] @ x, axis=1)
        attention = query.T @ key  # (n, m)
        parts.append((attention @ (weight_v[rows] @ x).T).T)
    return weight_out @ np.concatenate(parts)
