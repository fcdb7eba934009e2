"""Masked lambdas, pair by pair (Bello 2021, appendix B); differentiable, in float64."""

import torch


def masked_lambda_map(query, keys, values, table, mask, norm):
    """As the product's function of that name, one query and one image at a time."""
    batch, height, width = query.shape[:3]
    high, wide = values.shape[1:3]
    images = []
    for b in range(batch):
        outputs = []
        for n in range(height * width):
            seen = [m for m in range(high * wide) if mask[b, n, m]]
            matrix = query.new_zeros(query.shape[4], values.shape[4])
            y, x = divmod(n, width)
            for m in seen:
                i, j = divmod(m, wide)
                if keys is not None:
                    matrix = matrix + weight(keys[b].flatten(0, 1), m, seen, norm).T @ values[b, i, j]
                if table is not None:
                    row, column = i - y + table.shape[2] // 2, j - x + table.shape[3] // 2
                    if 0 <= row < table.shape[2] and 0 <= column < table.shape[3]:
                        matrix = matrix + table[:, :, row, column] @ values[b, i, j]
            outputs.append(query[b, y, x] @ matrix)
        images.append(torch.stack(outputs).unflatten(0, (height, width)))
    return torch.stack(images)


def weight(keys, m, seen, norm):
    """The normalized key (u, k) of position m among those seen."""
    if norm == "softmax":
        return keys[m].exp() / sum(keys[s].exp() for s in seen)
    if norm == "l2":
        return keys[m] / sum(keys[s] ** 2 for s in seen).sqrt()
    return keys[m]
