"""Position lambdas λp_n = Σ_m E_nm v_mᵀ, where E_nm depends on the offset m − n only (paper, section 3.1)."""

from torch import Tensor
from torch.nn import functional as F


def global_position_lambdas(values: Tensor, table: Tensor) -> Tensor:
    """Position lambdas with every position as context, as one matrix product over the batch.

    Args:
        values: (B, u, v, H, W).
        table: (k, u, 2H − 1, 2W − 1), the embedding of offset (0, 0) in its middle.

    Returns:
        (B, k, v, H, W), summed over the intra-depth u.
    """
    batch, intra_depth, value_depth, height, width = values.shape
    key_depth = table.shape[0]
    # The context of query (y, x) is the window of the table that starts at offset (−y, −x), that is at entry
    # (H − 1 − y, W − 1 − x): all windows, last one first.
    embeddings = table.unfold(2, height, 1).unfold(3, width, 1).flip(2, 3)
    embeddings = embeddings.permute(0, 2, 3, 1, 4, 5).reshape(key_depth * height * width, intra_depth * height * width)
    context = values.permute(1, 3, 4, 0, 2).reshape(intra_depth * height * width, batch * value_depth)
    lambdas = (embeddings @ context).view(key_depth, height, width, batch, value_depth)
    return lambdas.permute(3, 0, 4, 1, 2)


def local_position_lambdas(values: Tensor, table: Tensor, *, dilation: int = 1) -> Tensor:
    """Position lambdas with an r × r context: the lambda convolution (paper, section 3.2).

    A convolution of the values with the table as its kernel, from u channels to k, for each of the v value channels
    alike: its cost is linear in the number of positions. Positions beyond the edge have no embedding.

    Args:
        values: (B, u, v, H, W).
        table: (k, u, r, r) with odd r, the embedding of offset (0, 0) in its middle.
        dilation: distance in positions between neighbouring entries of the table.

    Returns:
        (B, k, v, H, W), summed over the intra-depth u.
    """
    batch, _, value_depth, height, width = values.shape
    images = values.transpose(1, 2).flatten(0, 1)
    padding = [dilation * (side // 2) for side in table.shape[2:]]
    lambdas = F.conv2d(images, table, padding=padding, dilation=dilation)
    return lambdas.view(batch, value_depth, -1, height, width).transpose(1, 2)
