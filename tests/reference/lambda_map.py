"""λ_n applied to q_n, pair by pair, as section 3.1 of Bello (2021) defines it; differentiable, in float64."""

import torch


def lambda_map(query, values, table, content, *, dilation=1, stride=1):
    """Query (B, H, W, h, k), values (B, H', W', u, v), table (k, u, R, C), content (B, k, v) → (B, H, W, h, v).

    Offsets are −R//2 … R//2 and −C//2 … C//2, times the dilation; queries stand at multiples of the stride.
    """
    _, height, width = query.shape[:3]
    context_height, context_width = values.shape[1:3]
    rows, columns = table.shape[2:]
    maps = []
    for y in range(height):
        for x in range(width):
            matrix = content
            for i in range(context_height):
                for j in range(context_width):
                    down, right = i - y * stride, j - x * stride
                    if down % dilation or right % dilation:
                        continue
                    row, column = down // dilation + rows // 2, right // dilation + columns // 2
                    if 0 <= row < rows and 0 <= column < columns:
                        matrix = matrix + torch.einsum("ku,buv->bkv", table[:, :, row, column], values[:, i, j])
            maps.append(torch.einsum("bhk,bkv->bhv", query[:, y, x], matrix))
    return torch.stack(maps, 1).unflatten(1, (height, width))
