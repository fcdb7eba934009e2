"""The lambda convolution (Bello 2021, section 3.2)."""

from typing import Any

from torch import nn

from lambdanets.errors import UserError
from lambdanets.mixers.lambda_layer import LambdaLayer, Scope


class LambdaConv(LambdaLayer):
    """A lambda layer whose position lambdas are an r × r convolution of the values, dilated and strided if asked.

    Its cost is linear in the number of positions; dilation widens its view at no cost.

    (B, C, H, W) → (B, C, ⌈H / stride⌉, ⌈W / stride⌉)

    Args:
        channels: C.
        stride: as in `LambdaLayer` a pooling behind the layer, unless `strided`.
        scope: r, odd.
        dilation: distance in positions between neighbours in the r × r context.
        strided: compute the output at every stride-th position only, as a strided convolution does, and pool nothing.
        **options: as in `LambdaLayer`.

    Raises:
        UserError: as `LambdaLayer`; a global scope, a dilation below 1, a strided layer that is masked.
    """

    def __init__(
        self,
        channels: int,
        *,
        stride: int = 1,
        scope: Scope = 7,
        dilation: int = 1,
        strided: bool = False,
        **options: Any,
    ) -> None:
        super().__init__(channels, stride=stride, scope=scope, **options)
        if scope == "global":
            raise UserError("A lambda convolution has a local scope: use mixer=lambda for scope=global.")
        if dilation < 1:
            raise UserError(f"dilation={dilation} must be at least 1.")
        if strided and self.causal:
            raise UserError("strided=true can't be combined with causal=true: use the pooling that strided=false has.")
        self.dilation = dilation
        self.step = stride if strided else 1
        if strided:
            self.pool = nn.Identity()
