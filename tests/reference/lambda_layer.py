"""The lambda layer, position by position, as equations 1 to 3 of Bello (2021) define it."""

import numpy as np


def lambda_layer(x, weight_q, weight_k, weight_v, norm_q, norm_v, table, *, heads, key_depth, intra_depth, dilation=1):
    """One image (d, H, W) → (d, H, W).

    weight_*: (out, d) projections; norm_*: (mean, var, gain, bias) of a batch norm in evaluation;
    table: (k, u, R, C), embeddings of the offsets −R//2 … R//2 and −C//2 … C//2 (times the dilation), others are zero.
    """
    d, height, width = x.shape
    value_depth = d // heads
    positions = [(i, j) for i in range(height) for j in range(width)]

    def batch_norm(vector, statistics):
        mean, var, gain, bias = statistics
        return (vector - mean) / np.sqrt(var + 1e-5) * gain + bias

    query = {n: batch_norm(weight_q @ x[:, n[0], n[1]], norm_q).reshape(heads, key_depth) for n in positions}
    key = {m: (weight_k @ x[:, m[0], m[1]]).reshape(key_depth, intra_depth) for m in positions}
    value = {m: batch_norm(weight_v @ x[:, m[0], m[1]], norm_v).reshape(intra_depth, value_depth) for m in positions}
    total = sum(np.exp(key[m]) for m in positions)

    y = np.zeros_like(x)
    for n in positions:
        matrix = np.zeros((key_depth, value_depth))
        for m in positions:
            for u in range(intra_depth):
                matrix += np.outer((np.exp(key[m]) / total)[:, u], value[m][u])
                row, column = m[0] - n[0], m[1] - n[1]
                if row % dilation == 0 and column % dilation == 0:
                    i = row // dilation + table.shape[2] // 2
                    j = column // dilation + table.shape[3] // 2
                    if 0 <= i < table.shape[2] and 0 <= j < table.shape[3]:
                        matrix += np.outer(table[:, u, i, j], value[m][u])
        for h in range(heads):
            y[h * value_depth : (h + 1) * value_depth, n[0], n[1]] = matrix.T @ query[n][h]
    return y
