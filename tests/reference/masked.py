"""Masked lambdas, pair by pair (Bello 2021, appendix B); differentiable, in float64."""

import torch


def masked_lambda_map(query, keys, values, table, mask, norm):
    """The same as `lambdanets.ops.masked_lambda_map`, one query and one image at a time."""
    batch, height, width = query.shape[:3]
    context_height, context_width = values.shape[1:3]
    images = []
    for b in range(batch):
        outputs = []
        for n in range(height * width):
            visible = [m for m in range(context_height * context_width) if mask[b, n, m]]
            matrix = query.new_zeros(query.shape[4], values.shape[4])
            y, x = divmod(n, width)
            for m in visible:
                i, j = divmod(m, context_width)
                if keys is not None:
                    matrix = matrix + weight(keys[b].flatten(0, 1), m, visible, norm).T @ values[b, i, j]
                if table is not None:
                    row, column = i - y + table.shape[2] // 2, j - x + table.shape[3] // 2
                    if 0 <= row < table.shape[2] and 0 <= column < table.shape[3]:
                        matrix = matrix + table[:, :, row, column] @ values[b, i, j]
            outputs.append(query[b, y, x] @ matrix)
        images.append(torch.stack(outputs).unflatten(0, (height, width)))
    return torch.stack(images)


def weight(keys, m, visible, norm):
    """The key (u, k) of position m, normalized over the visible positions."""
    if norm == "softmax":
        return keys[m].exp() / sum(keys[s].exp() for s in visible)
    if norm == "l2":
        return keys[m] / sum(keys[s] ** 2 for s in visible).sqrt()
    return keys[m]
