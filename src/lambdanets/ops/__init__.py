"""Pure functions on tensors, of which the mixers are made."""

import lambdanets.ops.flops  # noqa: F401, registers its formulas
from lambdanets.ops.batch_norm import is_eager_training, is_plain
from lambdanets.ops.content import KeyNorm, content_lambda, normalize_keys
from lambdanets.ops.cost import Cost, OpCounts, Shape, predict_costs
from lambdanets.ops.custom_op import is_transformed
from lambdanets.ops.kernel import kernel_error
from lambdanets.ops.lambda_map import CHANNELS_FIRST, METHODS, MethodName, choose_method, lambda_map
from lambdanets.ops.lambda_node import Depths, lambda_node
from lambdanets.ops.masked import causal_mask, masked_lambda_map
from lambdanets.ops.table import hide_later_positions, resize_table, scope_to_offsets
from lambdanets.ops.triton_kernel import triton_error

__all__ = [
    "CHANNELS_FIRST",
    "METHODS",
    "Cost",
    "Depths",
    "KeyNorm",
    "MethodName",
    "OpCounts",
    "Shape",
    "causal_mask",
    "choose_method",
    "content_lambda",
    "hide_later_positions",
    "is_eager_training",
    "is_plain",
    "is_transformed",
    "kernel_error",
    "lambda_map",
    "lambda_node",
    "masked_lambda_map",
    "normalize_keys",
    "predict_costs",
    "resize_table",
    "scope_to_offsets",
    "triton_error",
]
