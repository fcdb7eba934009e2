"""Lambdas first, the order of the paper: λ_n = λc + Σ_m E_nm v_mᵀ, then y_n^h = λ_nᵀ q_n^h.

Made of ordinary differentiable tensor operations, which every exporter supports.
"""

from contextlib import nullcontext

import torch
from torch import Tensor
from torch.nn import functional as F

from lambdanets.ops.table import scope_to_offsets


def lambdas_first(query: Tensor, values: Tensor, table: Tensor, content: Tensor) -> Tensor:
    """Compute the position lambdas of the whole map as one matrix product over the batch: 2·n·m·k·v FLOPs.

    The embeddings are expanded to n × m × k. Args and result are those of `lambdanets.ops.lambda_map`.
    """
    batch, height, width = query.shape[:3]
    context_height, context_width = values.shape[1:3]
    offsets = scope_to_offsets(table, (height, width), (context_height, context_width))
    # The context of query (y, x) is the window of the offsets that starts at entry (H − 1 − y, W − 1 − x).
    windows = offsets.unfold(2, context_height, 1).unfold(3, context_width, 1).flip(2, 3)
    embeddings = windows.permute(2, 3, 0, 1, 4, 5).reshape(height * width * table.shape[0], -1)
    context = values.permute(3, 1, 2, 0, 4).reshape(embeddings.shape[1], -1)
    lambdas = (embeddings @ context).view(height, width, table.shape[0], batch, values.shape[4])
    return apply_lambdas(query, lambdas.permute(3, 0, 1, 2, 4), content)


def lambda_convolution(
    query: Tensor, values: Tensor, table: Tensor, content: Tensor, *, dilation: int = 1, stride: int = 1
) -> Tensor:
    """Compute the position lambdas as a convolution of the values with the table as its kernel (paper, section 3.2).

    The convolution maps u channels to k, for each of the v value channels alike. Its cost is linear in the number of
    positions.

    Args:
        query: (B, ⌈H / stride⌉, ⌈W / stride⌉, h, k).
        values: (B, H, W, u, v).
        table: (k, u, R, C).
        content: (B, k, v).
        dilation: distance in positions between neighboring entries of the table.
        stride: distance in positions between neighboring queries.

    Returns:
        (B, ⌈H / stride⌉, ⌈W / stride⌉, h, v).
    """
    batch, _, _, _, value_depth = values.shape
    images = values.permute(0, 4, 3, 1, 2).flatten(0, 1)
    padding = [dilation * (side // 2) for side in table.shape[2:]]
    half = values.dtype in (torch.bfloat16, torch.float16) and values.device.type == "cpu"
    if half:  # a CPU would sum the gradient of the table in half precision
        images, table = images.float(), table.float()
    with torch.autocast("cpu", enabled=False) if half else nullcontext():
        lambdas = F.conv2d(images, table, stride=stride, padding=padding, dilation=dilation).to(values.dtype)
    lambdas = lambdas.unflatten(0, (batch, value_depth)).permute(0, 3, 4, 2, 1)
    return apply_lambdas(query, lambdas, content)


def apply_lambdas(query: Tensor, lambdas: Tensor, content: Tensor) -> Tensor:
    """(B, H, W, h, k) and (B, H, W, k, v) → (B, H, W, h, v)."""
    return query @ (lambdas + content[:, None, None])


def convolution_by_head(
    query: Tensor, values: Tensor, table: Tensor, content: Tensor, *, dilation: int = 1, stride: int = 1
) -> Tensor:
    """Compute `lambda_convolution` without moving the lambdas' axes, which runtimes of exported graphs do slowly.

    Args and result are those of `lambda_convolution`. Maps may have any size.
    """
    batch, height, width, heads, _ = query.shape
    images = values.permute(0, 4, 3, 1, 2).flatten(0, 1)
    padding = [dilation * (side // 2) for side in table.shape[2:]]
    lambdas = F.conv2d(images, table, stride=stride, padding=padding, dilation=dilation)
    lambdas = lambdas.unflatten(0, (batch, -1))  # (B, v, k, H, W)
    by_head = query.permute(0, 3, 4, 1, 2)  # (B, h, k, H, W)
    position = torch.stack([(lambdas * by_head[:, head, None]).sum(2) for head in range(heads)], 1)
    shared = (query.flatten(1, 3) @ content).unflatten(1, (height, width, heads))
    return position.permute(0, 3, 4, 1, 2) + shared
