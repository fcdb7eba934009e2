"""The lambda convolution (Bello 2021, section 3.2)."""

from typing import Any

from torch import Tensor

from lambdanets.errors import UserError
from lambdanets.mixers.lambda_layer import LambdaLayer
from lambdanets.ops import local_position_lambdas


class LambdaConv(LambdaLayer):
    """A lambda layer whose position lambdas are an r × r convolution of the values, dilated if asked.

    The same function as `LambdaLayer` with that scope, computed as a convolution whatever the map's size: its cost is
    linear in the number of positions, and dilation widens its view at no cost.

    (B, C, H, W) → (B, C, ⌈H / stride⌉, ⌈W / stride⌉)

    Args:
        channels: C.
        scope: r, odd.
        dilation: distance in positions between neighbours in the r × r context.
        **options: stride, feature_size, key_depth, heads and intra_depth as in `LambdaLayer`.

    Raises:
        UserError: as `LambdaLayer`, and a dilation below 1.
    """

    def __init__(self, channels: int, *, scope: int = 7, dilation: int = 1, **options: Any) -> None:
        super().__init__(channels, scope=scope, **options)
        if dilation < 1:
            raise UserError(f"dilation={dilation} must be at least 1.")
        self.dilation = dilation

    def position_lambdas(self, value: Tensor) -> Tensor:
        return local_position_lambdas(value, self.table, dilation=self.dilation)
