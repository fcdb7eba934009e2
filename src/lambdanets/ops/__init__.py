"""Pure functions on tensors that the mixers are made of."""

from lambdanets.ops.content import content_lambda
from lambdanets.ops.position import global_position_lambdas, local_position_lambdas
from lambdanets.ops.table import resize_table, scope_to_offsets

__all__ = [
    "content_lambda",
    "global_position_lambdas",
    "local_position_lambdas",
    "resize_table",
    "scope_to_offsets",
]
