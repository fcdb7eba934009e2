"""Pure functions on tensors that the mixers are made of."""

from lambdanets.ops.content import KeyNorm, content_lambda
from lambdanets.ops.lambda_map import METHODS, MethodName, lambda_map
from lambdanets.ops.masked import causal_mask, masked_lambda_map
from lambdanets.ops.table import resize_table, scope_to_offsets

__all__ = [
    "METHODS",
    "KeyNorm",
    "MethodName",
    "causal_mask",
    "content_lambda",
    "lambda_map",
    "masked_lambda_map",
    "resize_table",
    "scope_to_offsets",
]
