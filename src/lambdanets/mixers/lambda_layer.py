"""The lambda layer (Bello 2021, section 3)."""

import logging
from typing import Any, Literal

import torch
from torch import Tensor, nn

from lambdanets.errors import UserError
from lambdanets.mixers.interface import channels_per_head, lay_out, memory_format_of, stride_pool
from lambdanets.ops import (
    CHANNELS_FIRST,
    Cost,
    Depths,
    KeyNorm,
    MethodName,
    Shape,
    causal_mask,
    choose_method,
    content_lambda,
    hide_later_positions,
    is_eager_training,
    is_plain,
    lambda_map,
    lambda_node,
    masked_lambda_map,
    predict_costs,
    resize_table,
)

log = logging.getLogger(__name__)
Scope = int | tuple[int, int] | Literal["global"]
Init = Literal["paper", "small"]


class LambdaLayer(nn.Module):
    """The lambda layer: y_n^h = (λc + λp_n)ᵀ q_n^h with λc = softmax(K)ᵀ V and λp_n = E_nᵀ V.

    No attention map is ever formed. (B, C, H, W) → (B, C, ⌈H / stride⌉, ⌈W / stride⌉), or for sequences, which are maps
    of 1 × N positions, (B, C, N) → (B, C, ⌈N / stride⌉).

    Args:
        channels: C, the d of the paper.
        stride: 2 appends a 3×3 average pooling.
        feature_size: (H, W) of the input, (1, N) for sequences; only a global scope needs it. On a map of another size
            the layer interpolates its table of embeddings and logs that.
        scope: side r, odd, of the r × r positions around a query that position lambdas see, or its two sides, or
            "global" for all positions. The content lambda always sees all positions.
        key_depth: k.
        heads: h, the number of queries per position; the value depth is v = C / h.
        intra_depth: u.
        content: add a content lambda.
        position: add position lambdas; without them the input may be a set.
        key_norm: normalization of the keys over the context: "softmax", "l2" or "none" (the paper's ablation).
        query_softmax: apply a softmax over the k entries of each query.
        batch_norm: normalize queries and values with batch norms.
        init: initial weights: "paper", position embeddings ~ N(0, 1), W_K and W_V with standard deviation d^(−1/2), W_Q
            with (k·d)^(−1/2); or "small", all projections with d^(−1/2) and embeddings with 0.02 as in timm, with which
            content and position lambdas start at the same order of magnitude.
        causal: let a query see only itself and the positions before it, in raster order. The pooling behind a layer of
            stride 2 still averages 3 × 3 queries, later ones too.
        method: method to compute the lambdas, see `lambdanets.ops.lambda_map`; all give the same result.
        crop_table: on a map smaller than feature_size, use the part of a global scope's table that its offsets need, so
            that an offset in positions keeps its embedding, instead of interpolating the table.

    Raises:
        UserError: the heads don't divide the channels, the scope is even, a global scope has no feature size, a choice
            is unknown, or the layer has neither content nor position lambdas.
    """

    # Distances in positions between neighbors in the table, and between queries; a lambda convolution has its own.
    dilation = 1
    query_stride = 1

    def __init__(
        self,
        channels: int,
        *,
        stride: int = 1,
        feature_size: tuple[int, int] | None = None,
        scope: Scope = 23,
        key_depth: int = 16,
        heads: int = 4,
        intra_depth: int = 1,
        content: bool = True,
        position: bool = True,
        key_norm: KeyNorm = "softmax",
        query_softmax: bool = False,
        batch_norm: bool = True,
        init: Init = "paper",
        causal: bool = False,
        method: MethodName = "auto",
        crop_table: bool = False,
    ) -> None:
        super().__init__()
        self.scope = scope
        self.key_depth = key_depth
        self.heads = heads
        self.intra_depth = intra_depth
        self.value_depth = channels_per_head(channels, heads)
        self.key_norm = key_norm
        self.query_softmax = query_softmax
        self.causal = causal
        self.method = method
        self.crop_table = crop_table
        self.logged_sizes: set[tuple[int, int]] = set()
        self.product: nn.Module | None = None  # computes `mix` in exported graphs, see lambdanets.export.products
        if min(key_depth, intra_depth) < 1:
            raise UserError(f"key_depth={key_depth} and intra_depth={intra_depth} must both be at least 1.")
        if not content and not position:
            raise UserError("content=false and position=false leave nothing of a lambda layer; choose one of them.")
        if key_norm not in ("softmax", "l2", "none"):
            raise UserError(f"key_norm={key_norm} is not known; choose one of softmax, l2, none.")
        if init not in ("paper", "small"):
            raise UserError(f"init={init} is not known; choose one of paper, small.")

        key_channels = key_depth * intra_depth if content else 0
        self.sections = [heads * key_depth, self.value_depth * intra_depth, key_channels]
        self.qkv = nn.Linear(channels, sum(self.sections), bias=False)
        self.query_norm = nn.BatchNorm2d(self.sections[0]) if batch_norm else nn.Identity()
        self.value_norm = nn.BatchNorm2d(self.sections[1]) if batch_norm else nn.Identity()
        self.table: nn.Parameter | None = None
        if position:
            self.table = nn.Parameter(torch.empty(key_depth, intra_depth, *table_size(scope, feature_size)))
        self.pool = stride_pool(stride)
        self.reset_parameters(init)

    def reset_parameters(self, init: Init) -> None:
        """Draw the projections and the embeddings anew, see `init` above."""
        nn.init.normal_(self.qkv.weight, std=self.qkv.in_features**-0.5)
        if init == "paper":
            with torch.no_grad():
                self.qkv.weight[: self.sections[0]] *= self.key_depth**-0.5
        if self.table is not None and init == "paper":
            nn.init.normal_(self.table)
        elif self.table is not None:
            nn.init.trunc_normal_(self.table, std=0.02)

    def forward(self, x: Tensor, context: Tensor | None = None, mask: Tensor | None = None) -> Tensor:
        """Compute the layer's output: (B, C, ⌈H / stride⌉, ⌈W / stride⌉) or (B, C, ⌈N / stride⌉).

        Args:
            x: (B, C, H, W) or (B, C, N), the source of the queries.
            context: (B, C, H', W') or (B, C, M), the source of keys and values; defaults to x. Offsets count from the
                first position of both.
            mask: boolean (n, m) or (B, n, m), true where query n may see position m of the context, in raster order.

        Raises:
            UserError: a strided lambda convolution gets a mask or a context of another size, a dilated one such a
                context without a mask, or a causal layer.
        """
        if x.ndim == 3:
            y = self(x[:, :, None], None if context is None else context[:, :, None], mask)
            return y[:, :, 0]
        causal = self.causal and mask is None and context is None
        if context is None:
            context = x
        if (self.query_stride > 1 or (self.dilation > 1 and mask is None)) and context.shape[2:] != x.shape[2:]:
            raise UserError(
                f"A strided or dilated lambda convolution got {x.shape[2]}×{x.shape[3]} positions and a context of "
                f"{context.shape[2]}×{context.shape[3]}: give both the same size."
            )
        if self.query_stride > 1:
            x = x[:, :, :: self.query_stride, :: self.query_stride]
            if mask is not None:
                raise UserError("A strided lambda convolution takes no mask: use the pooling of strided=false.")
        if self.causal and not causal:
            if context.shape[2:] != x.shape[2:]:
                raise UserError(
                    f"A causal layer got {x.shape[2]}×{x.shape[3]} positions and a context of {context.shape[2]}×"
                    f"{context.shape[3]}: give both the same size, or pass a mask to a layer with causal=false."
                )
            past = causal_mask(x.shape[2] * x.shape[3], x.device)
            mask = past if mask is None else mask & past
        memory_format = memory_format_of(x)
        method = self.choose_method(x, context) if mask is None and self.table is not None else None
        if method == "kernel" and context is x and self.is_plain_training(x):
            return lay_out(self.pool(self.run_node(x)), memory_format)
        inner_format = torch.channels_last if method not in CHANNELS_FIRST else torch.contiguous_format
        query, value, key = self.project(x, context, inner_format)
        if causal:
            y = self.mix_past(query, value, key, method)
        elif mask is None:
            y = self.mix(query, value, key, method)
        else:
            table = self.fit_table(query, value)
            y = masked_lambda_map(query, key, value, table, mask, self.key_norm, self.dilation)
            y = y + apply_content_lambda(query, self.content_lambda(value, None))  # a subclass may add to it
        y = self.pool(y.permute(0, 3, 4, 1, 2).flatten(1, 2))
        return lay_out(y, memory_format)

    def choose_method(self, x: Tensor, context: Tensor) -> str:
        """Choose the method for maps of these sizes; x has the positions of queries only."""
        return choose_method(self.product_shape(x, context), self.method)

    def predict_costs(self, x: Tensor) -> dict[str, Cost]:
        """Predict the cost of each method for an input (B, C, H, W)."""
        return predict_costs(self.product_shape(x[:, :, :: self.query_stride, :: self.query_stride], x))

    def set_method(self, method: MethodName) -> None:
        """Compute the lambdas by another method from now on."""
        self.method = method

    def expect_smaller_maps(self) -> None:
        """Crop the table on smaller maps from now on, see `crop_table`; detectors have images of several sizes."""
        self.crop_table = True

    def share_table(self, table: nn.Parameter | None) -> None:
        """Use the table of another layer."""
        self.table = table

    def product_shape(self, x: Tensor, context: Tensor) -> Shape:
        """Return the sizes of the product of queries and lambdas; x has the positions of queries only."""
        assert self.table is not None
        device = x.device.type
        return Shape(
            batch=x.shape[0],
            height=x.shape[2],
            width=x.shape[3],
            context=(context.shape[2], context.shape[3]),
            heads=self.heads,
            key_depth=self.key_depth,
            value_depth=self.value_depth,
            intra_depth=self.intra_depth,
            scope=(self.table.shape[2], self.table.shape[3]),
            dilation=self.dilation,
            stride=self.query_stride,
            device=device,
            training=torch.is_grad_enabled() and self.training,
            dtype=self.product_dtype(x),
        )

    def is_plain_training(self, x: Tensor) -> bool:
        """Return whether one autograd node may compute the layer, see `lambdanets.ops.lambda_node`.

        Not where C functions must not replace operators, with other norms than plain ones in training, if somebody
        hooks these norms, or if a subclass computes a part in its own way.
        """
        usual = not (self.causal or self.query_softmax or self.qkv.bias is not None) and self.dilation == 1
        if not usual or self.is_customized() or not is_eager_training(x):
            return False
        if not (is_plain(self.query_norm) and is_plain(self.value_norm)):
            return False
        parameters = self.qkv.weight, self.table, self.query_norm.weight, self.value_norm.weight
        dtype = self.qkv.weight.dtype
        return (
            (self.key_norm == "softmax" or not self.sections[2])
            and all(type(parameter) is nn.Parameter and parameter.dtype is dtype for parameter in parameters)
            and (x.dtype is dtype or is_autocast_enabled(x.device.type))
            and self.product_dtype(x) in (dtype, torch.bfloat16)
            and x.numel() > x.shape[1]  # one position has no variance
        )

    def is_customized(self) -> bool:
        """Return whether a subclass computes a part of the layer in its own way."""
        parts = ("project", "split_heads", "content_lambda", "mix", "fit_table")
        return any(getattr(type(self), name) is not getattr(LambdaLayer, name) for name in parts)

    def run_node(self, x: Tensor) -> Tensor:
        """Compute the layer as one autograd node: (B, C, H, W) → (B, C, H, W)."""
        assert isinstance(self.query_norm, nn.BatchNorm2d)
        assert isinstance(self.value_norm, nn.BatchNorm2d)
        depths = Depths(self.heads, self.key_depth, self.value_depth, self.intra_depth, self.sections[2] > 0)
        table = self.fit_table(x.permute(0, 2, 3, 1))
        assert table is not None
        x = x.to(self.product_dtype(x))
        return lambda_node(x, self.qkv.weight, self.query_norm, self.value_norm, table, depths)

    def product_dtype(self, x: Tensor) -> torch.dtype:
        """Return the data type of the layer's products, which autocast may choose, but not for float64."""
        device = x.device.type
        is_cast = is_autocast_enabled(device) and x.dtype != torch.float64
        return torch.get_autocast_dtype(device) if is_cast else x.dtype

    def project(
        self, x: Tensor, context: Tensor, memory_format: torch.memory_format
    ) -> tuple[Tensor, Tensor, Tensor | None]:
        """Project to queries (B, H, W, h, k), values (B, H', W', u, v) and keys (B, H', W', u, k).

        Args:
            x: source of the queries.
            context: source of keys and values; x itself, if it is the same.
            memory_format: order of the results in memory.
        """
        weight, bias = self.qkv.weight, self.qkv.bias  # a bias has norms folded into it, see lambdanets.inference
        if context is x:
            query, value, key = pointwise_conv(x, weight, memory_format, bias).split(self.sections, 1)
        else:
            queries = self.sections[0]
            biases = (None, None) if bias is None else (bias[:queries], bias[queries:])
            query = pointwise_conv(x, weight[:queries], memory_format, biases[0])
            context_maps = pointwise_conv(context, weight[queries:], memory_format, biases[1])
            value, key = context_maps.split(self.sections[1:], 1)
        query = self.query_norm(lay_out(query, memory_format))
        value = self.value_norm(lay_out(value, memory_format))
        return self.split_heads(query, value, key)

    def split_heads(self, query: Tensor, value: Tensor, key: Tensor) -> tuple[Tensor, Tensor, Tensor | None]:
        """Split the channels of queries, values and keys, (B, ·, H, W) each, as `project` returns them."""
        query = query.permute(0, 2, 3, 1).unflatten(3, (self.heads, self.key_depth))
        if self.query_softmax:
            query = query.softmax(-1, dtype=torch.promote_types(query.dtype, torch.float32)).to(value.dtype)
        value = value.permute(0, 2, 3, 1).unflatten(3, (self.intra_depth, self.value_depth))
        if not self.sections[2]:
            return query, value, None
        return query, value, key.permute(0, 2, 3, 1).unflatten(3, (self.intra_depth, self.key_depth))

    def mix(self, query: Tensor, value: Tensor, key: Tensor | None, method: str | None) -> Tensor:
        """Apply the lambdas to the queries: (B, H, W, h, v)."""
        content = self.content_lambda(value, key)
        if self.product is not None:
            return self.product(query, value, content)
        table = self.fit_table(query, value)
        if table is None or method is None:
            return apply_content_lambda(query, content)
        table = table.to(query.dtype)
        return lambda_map(query, value, table, content, dilation=self.dilation, stride=self.query_stride, method=method)

    def mix_past(self, query: Tensor, value: Tensor, key: Tensor | None, method: str | None) -> Tensor:
        """Apply the lambdas of each query's past to it: (B, H, W, h, v).

        What position lambdas may see depends on the offset alone: it needs no mask.
        """
        table = self.fit_table(query)
        parts = []
        if key is not None:
            past = causal_mask(query.shape[1] * query.shape[2], query.device)
            parts.append(masked_lambda_map(query, key, value, None, past, self.key_norm))
        nothing = self.content_lambda(value, None)
        if self.product is not None:
            parts.append(self.product(query, value, nothing))
        elif table is not None and method is not None:
            table = hide_later_positions(table).to(query.dtype)
            parts.append(lambda_map(query, value, table, nothing, dilation=self.dilation, method=method))
        else:
            parts.append(apply_content_lambda(query, nothing))
        return sum(parts[1:], parts[0])

    def content_lambda(self, value: Tensor, key: Tensor | None) -> Tensor:
        """Compute the content lambda (B, k, v), which all queries share; zeros without one."""
        if key is None:
            return value.new_zeros(value.shape[0], self.key_depth, self.value_depth)
        return content_lambda(key.flatten(1, 2), value.flatten(1, 2), self.key_norm).to(value.dtype)

    def fit_table(self, query: Tensor, context: Tensor | None = None) -> Tensor | None:
        """Return the table for this map of queries, or None without position lambdas.

        Args:
            query: (B, H, W, ·), or with more axes.
            context: (B, H', W', ·), if it isn't of the same size: a global table has its offsets, too.
        """
        if self.table is None or self.scope != "global":
            return self.table
        height, width = query.shape[1:3]
        if context is not None:
            height, width = max(height, context.shape[1]), max(width, context.shape[2])
        middle = [side // 2 for side in self.table.shape[2:]]
        if self.crop_table and height - 1 <= middle[0] and width - 1 <= middle[1]:
            rows, columns = (slice(m - side + 1, m + side) for m, side in zip(middle, (height, width), strict=True))
            return self.table[:, :, rows, columns]
        if self.table.shape[2:] != (2 * height - 1, 2 * width - 1):
            self.log_table_resize((height, width))
        return resize_table(self.table, height, width)

    def log_table_resize(self, size: tuple[int, int]) -> None:
        """Log that the table is interpolated, once per size."""
        assert self.table is not None
        if torch.compiler.is_compiling() or size in self.logged_sizes:
            return
        self.logged_sizes.add(size)
        table_positions = [(side + 1) // 2 for side in self.table.shape[2:]]
        log.info(
            "A global lambda layer for %d×%d positions gets %d×%d: its position embeddings are interpolated.",
            *table_positions,
            *size,
        )

    def _load_from_state_dict(self, state_dict: dict[str, Any], prefix: str, *rest: Any) -> None:
        table = state_dict.get(prefix + "table")
        if self.scope == "global" and self.table is not None and table is not None and table.ndim == 4:
            height, width = ((side + 1) // 2 for side in self.table.shape[2:])
            if table.shape[:2] == self.table.shape[:2] and table.shape != self.table.shape:
                table_positions = [(side + 1) // 2 for side in table.shape[2:]]
                log.info(
                    "Position embeddings of %d×%d positions are interpolated to %d×%d.", *table_positions, height, width
                )
                state_dict[prefix + "table"] = resize_table(table, height, width)
        super()._load_from_state_dict(state_dict, prefix, *rest)

    def extra_repr(self) -> str:
        names = ("scope", "key_depth", "heads", "intra_depth", "value_depth")
        return ", ".join(f"{name}={getattr(self, name)}" for name in names)


def apply_content_lambda(query: Tensor, content: Tensor) -> Tensor:
    """Apply the lambda (B, k, v) that all positions share: (B, H, W, h, k) → (B, H, W, h, v)."""
    return (query.flatten(1, 3) @ content).unflatten(1, query.shape[1:4])


def is_autocast_enabled(device: str) -> bool:
    """Return whether autocast is on for a type of device; the device "meta" has none."""
    return torch.amp.is_autocast_available(device) and torch.is_autocast_enabled(device)


def pointwise_conv(x: Tensor, weight: Tensor, memory_format: torch.memory_format, bias: Tensor | None = None) -> Tensor:
    """Apply a 1×1 convolution, (B, C, H, W) and (out, C) → (B, out, H, W), with the fastest products for its output."""
    batch, _, height, width = x.shape
    if memory_format == torch.channels_last:
        # One product per image would be too small to be fast. Exported graphs must not depend on the size of a map.
        if torch.compiler.is_exporting() or memory_format_of(x) == memory_format or height * width < 256:
            return nn.functional.linear(x.permute(0, 2, 3, 1).contiguous(), weight, bias).permute(0, 3, 1, 2)
        rows = torch.bmm(x.flatten(2).mT, weight.T.expand(batch, -1, -1))  # without a copy of x
        y = rows.unflatten(1, (height, width)).permute(0, 3, 1, 2)
    elif height * width < 128:  # one large product pays for its copies on small maps only
        product = weight @ x.transpose(0, 1).flatten(1)
        y = product.unflatten(1, (batch, height, width)).transpose(0, 1)
    else:
        y = torch.bmm(weight.expand(batch, -1, -1), x.flatten(2)).unflatten(2, (height, width))
    return y if bias is None else y + bias[:, None, None]


def table_size(scope: Scope, feature_size: tuple[int, int] | None) -> tuple[int, int]:
    """Return the rows and columns of the table of offsets.

    Raises:
        UserError: the scope is neither odd nor "global", or it is "global" and there is no feature size.
    """
    if scope == "global":
        if feature_size is None:
            raise UserError("scope=global needs the feature_size (H, W) of the layer's input, and none was given.")
        height, width = feature_size
        return 2 * height - 1, 2 * width - 1
    sides = (scope, scope) if isinstance(scope, int) else tuple(scope)
    if isinstance(scope, str) or len(sides) != 2 or any(side < 1 or side % 2 == 0 for side in sides):
        raise UserError(f"scope={scope} has no middle; give an odd number of positions such as 7 or 23, or 'global'.")
    return sides
