"""The lambda layer's product, computed by the exact method of least predicted cost."""

from collections.abc import Callable
from typing import Any, Literal

import torch
from torch import Tensor
from torch.nn import functional as F

from lambdanets.errors import UserError
from lambdanets.ops import kernel, triton_kernel
from lambdanets.ops.cost import Shape, predict_costs, supported_methods
from lambdanets.ops.fourier import fourier
from lambdanets.ops.lambdas import lambda_convolution, lambdas_first
from lambdanets.ops.row_fft import row_fft
from lambdanets.ops.scores import scores_first
from lambdanets.ops.tiles import tiled_scores

MethodName = Literal["auto", "lambdas", "convolution", "scores", "tiles", "row_fft", "fourier", "kernel", "triton"]

METHODS: dict[str, Callable[..., Tensor]] = {
    "lambdas": lambdas_first,
    "convolution": lambda_convolution,
    "scores": scores_first,
    "tiles": tiled_scores,
    "row_fft": row_fft,
    "fourier": fourier,
    "kernel": kernel.scores_kernel,
    "triton": triton_kernel.triton_lambdas,
}
# Embeddings up to this size may be expanded to n × m × k.
MOST_EXPANDED_BYTES = 2**30
# Methods that are fastest when positions are innermost in memory.
CHANNELS_FIRST = ("scores", "fourier")


def choose_method(shape: Shape, method: str = "auto") -> str:
    """Return the given method, or for "auto" the one that is predicted to be fastest.

    Raises:
        UserError: the method is unknown, or can't compute a product of this shape.
    """
    if method == "auto":
        return fastest_method(*shape.with_static_sizes())
    if method not in METHODS:
        raise UserError(f"method={method} is not known; choose one of auto, {', '.join(METHODS)}.")
    if method == "kernel" and (shape.device != "cpu" or kernel.kernel_error()):
        reason = kernel.kernel_error() if shape.device == "cpu" else f"the layer is on {shape.device}"
        raise UserError(f"method=kernel needs a CPU and a C compiler, but {reason}; choose method=auto.")
    if method == "triton" and not triton_kernel.supports(shape.device, shape.dtype, shape.key_depth):
        reason = triton_kernel.triton_error() or (
            f"the layer is on {shape.device}, in {shape.dtype}, with key_depth={shape.key_depth}"
        )
        raise UserError(
            "method=triton needs Triton, a GPU, float32, bfloat16 or float16, and key_depth up to "
            f"{triton_kernel.TILE}, but {reason}; choose method=auto."
        )
    if method not in supported_methods(shape):
        names = ", ".join(supported_methods(shape))
        raise UserError(
            f"method={method} can't compute stride={shape.stride} with a context of {shape.context[0]}×"
            f"{shape.context[1]} positions; choose auto or {names}."
        )
    return method


# A compiler must not trace the cost model. It can only pass constants to such a function, hence the plain sizes.
@torch.compiler.assume_constant_result
def fastest_method(*sizes: Any) -> str:
    """Return the method that is predicted to be fastest for the fields of a `Shape`.

    Embeddings that are expanded stay in memory until the backward pass, so that large ones count only for want of
    another method.
    """
    shape = Shape(*sizes)
    costs = predict_costs(shape)
    is_large = shape.phases.expanded_bytes > MOST_EXPANDED_BYTES
    return min(costs, key=lambda name: (is_large and name == "lambdas", costs[name].seconds))


def lambda_map(
    query: Tensor,
    values: Tensor,
    table: Tensor,
    content: Tensor,
    *,
    dilation: int = 1,
    stride: int = 1,
    method: str = "auto",
) -> Tensor:
    """Compute y_n^h = (λc + Σ_m E_nm v_mᵀ)ᵀ q_n^h, where E_nm depends on the offset from n to m only.

    (Paper, section 3.1.)

    Args:
        query: (B, H, W, h, k); with a stride, queries of every stride-th row and column of the context.
        values: (B, H', W', u, v), a context with the same origin. Unless it has the queries' own size (or that times
            the stride), only "lambdas", "scores", "kernel" and "triton" support it.
        table: (k, u, R, C) with odd R and C, the embedding of offset (0, 0) in its middle; embeddings beyond it are
            zero. A global context has (2H − 1) × (2W − 1) offsets.
        content: (B, k, v), the content lambda, or zeros.
        dilation: distance in positions between neighboring entries of the table.
        stride: distance in positions between neighboring queries.
        method: a MethodName: one of METHODS, or "auto" for the one that `lambdanets.ops.cost` predicts to be fastest.

    Returns:
        (B, H, W, h, v).

    Raises:
        UserError: the method is unknown, or can't compute a product of this shape, or the data types differ.
    """
    if not query.dtype == values.dtype == table.dtype == content.dtype:
        raise UserError(
            f"query, values, table and content are {query.dtype}, {values.dtype}, {table.dtype} and {content.dtype}: "
            "convert them to one data type."
        )
    method = choose_method(Shape.of(query, values, table, dilation=dilation, stride=stride), method)
    if method == "convolution":
        return lambda_convolution(query, values, table, content, dilation=dilation, stride=stride)
    if dilation == 1:
        return METHODS[method](query, values, table, content)
    # Positions only see others at multiples of the dilation: dilation² independent maps without dilation.
    height, width = query.shape[1:3]
    content = content.repeat_interleave(dilation**2, 0)
    y = METHODS[method](split_phases(query, dilation), split_phases(values, dilation), table, content)
    y = y.unflatten(0, (-1, dilation, dilation)).permute(0, 3, 1, 4, 2, 5, 6).flatten(3, 4).flatten(1, 2)
    return y[:, :height, :width]


def split_phases(maps: Tensor, dilation: int) -> Tensor:
    """Split maps by position modulo the dilation, padded with zeros.

    (B, H, W, ·, ·) → (B·dilation², ⌈H / dilation⌉, ⌈W / dilation⌉, ·, ·)
    """
    below, right = (-side % dilation for side in maps.shape[1:3])
    maps = F.pad(maps, (0, 0, 0, 0, 0, right, 0, below))
    maps = maps.unflatten(2, (-1, dilation)).unflatten(1, (-1, dilation))
    return maps.permute(0, 2, 4, 1, 3, 5, 6).flatten(0, 2)
