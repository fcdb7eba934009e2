"""The lambda convolution (Bello 2021, section 3.2)."""

from typing import Any

from torch import nn

from lambdanets.errors import UserError
from lambdanets.mixers.lambda_layer import LambdaLayer, Scope


class LambdaConv(LambdaLayer):
    """A lambda layer whose position lambdas are an r × r convolution of the values, optionally dilated and strided.

    Its cost is linear in the number of positions. A dilation widens the context at no cost.

    (B, C, H, W) → (B, C, ⌈H / stride⌉, ⌈W / stride⌉)

    Args:
        channels: C.
        stride: 2 appends a 3×3 average pooling as in `LambdaLayer`, unless `strided`.
        scope: r, odd.
        dilation: distance in positions between neighbors in the r × r context.
        strided: compute the output at every stride-th position only, as a strided convolution does, without pooling.
        **options: further arguments of `LambdaLayer`.

    Raises:
        UserError: the arguments are invalid for `LambdaLayer`, the scope is global, the dilation is below 1, or a
            strided layer is causal.
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
        self.query_stride = stride if strided else 1
        if strided:
            self.pool = nn.Identity()
