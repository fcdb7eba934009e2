"""The lambda layer, position by position, as equations 1 to 3 of Bello (2021) define it."""

import numpy as np


def lambda_layer(
    x,
    weight_q,
    weight_k,
    weight_v,
    norm_q,
    norm_v,
    table,
    *,
    heads,
    key_depth,
    intra_depth,
    dilation=1,
    context=None,
    key_norm="softmax",
    query_softmax=False,
):
    """One image (d, H, W) → (d, H, W); keys and values from the context (d, H', W').

    weight_*: (out, d) projections, weight_k None for position lambdas alone; norm_*: (mean, var, gain, bias) of a batch
    norm in evaluation, or None; table: (k, u, R, C), embeddings of the offsets −R//2 … R//2 and −C//2 … C//2 (times the
    dilation), others are zero; None for content lambdas alone.
    """
    d, height, width = x.shape
    value_depth = d // heads
    context = x if context is None else context
    positions = [(i, j) for i in range(height) for j in range(width)]
    context_positions = [(i, j) for i in range(context.shape[1]) for j in range(context.shape[2])]

    def batch_norm(vector, statistics):
        if statistics is None:
            return vector
        mean, var, gain, bias = statistics
        return (vector - mean) / np.sqrt(var + 1e-5) * gain + bias

    query = {n: batch_norm(weight_q @ x[:, n[0], n[1]], norm_q).reshape(heads, key_depth) for n in positions}
    if query_softmax:
        query = {n: np.exp(q) / np.exp(q).sum(1, keepdims=True) for n, q in query.items()}
    value = {
        m: batch_norm(weight_v @ context[:, m[0], m[1]], norm_v).reshape(intra_depth, value_depth)
        for m in context_positions
    }
    if weight_k is not None:
        key = {m: (weight_k @ context[:, m[0], m[1]]).reshape(intra_depth, key_depth).T for m in context_positions}
        total = {
            "softmax": sum(np.exp(key[m]) for m in context_positions),
            "l2": np.sqrt(sum(key[m] ** 2 for m in context_positions)),
            "none": 1.0,
        }[key_norm]

    y = np.zeros_like(x)
    for n in positions:
        matrix = np.zeros((key_depth, value_depth))
        for m in context_positions:
            for u in range(intra_depth):
                if weight_k is not None:
                    weight = (np.exp(key[m]) if key_norm == "softmax" else key[m]) / total
                    matrix += np.outer(weight[:, u], value[m][u])
                if table is None:
                    continue
                row, column = m[0] - n[0], m[1] - n[1]
                if row % dilation == 0 and column % dilation == 0:
                    i = row // dilation + table.shape[2] // 2
                    j = column // dilation + table.shape[3] // 2
                    if 0 <= i < table.shape[2] and 0 <= j < table.shape[3]:
                        matrix += np.outer(table[:, u, i, j], value[m][u])
        for h in range(heads):
            y[h * value_depth : (h + 1) * value_depth, n[0], n[1]] = matrix.T @ query[n][h]
    return y
