"""Lambda layers that share their position embeddings (Bello 2021, Table 4)."""

from typing import Any

from torch import nn

from lambdanets.mixers.lambda_layer import LambdaLayer


class SharedLambda:
    """A factory of lambda layers that share one table of position embeddings per feature size.

    Args:
        **options: arguments of all `LambdaLayer`s.
    """

    def __init__(self, **options: Any) -> None:
        self.options = options
        self.tables: dict[tuple[int, int], nn.Parameter | None] = {}

    def __call__(self, channels: int, *, stride: int, feature_size: tuple[int, int]) -> nn.Module:
        layer = LambdaLayer(channels, stride=stride, feature_size=feature_size, **self.options)
        layer.share_table(self.tables.setdefault(feature_size, layer.table))
        return layer
