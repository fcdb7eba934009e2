"""Pure functions on tensors that the mixers are made of."""

import lambdanets.ops.flops  # noqa: F401, registers the formulas
from lambdanets.ops.content import KeyNorm, content_lambda, normalised
from lambdanets.ops.cost import Shape, costs
from lambdanets.ops.kernel import missing_kernel
from lambdanets.ops.lambda_map import CHANNELS_FIRST, METHODS, MethodName, choose, lambda_map
from lambdanets.ops.masked import causal_mask, masked_lambda_map
from lambdanets.ops.table import resize_table, scope_to_offsets

__all__ = [
    "CHANNELS_FIRST",
    "METHODS",
    "KeyNorm",
    "MethodName",
    "Shape",
    "causal_mask",
    "choose",
    "content_lambda",
    "costs",
    "lambda_map",
    "masked_lambda_map",
    "missing_kernel",
    "normalised",
    "resize_table",
    "scope_to_offsets",
]
