"""Lambdas first on a GPU, by programs in Triton: λ_n = λc + Σ_m E_nm v_mᵀ is applied to q_n where it is computed.

The position lambdas of all queries and images are one matrix product: row (n, k), column (b, v), summed over the
context m. Its left factor, the embeddings E_nm, is never expanded to n × m × k: a tile of neighboring queries in a row
of the map sees a position m through one *window* of the table, the embeddings of the offsets from each of these queries
to m. A table has few windows, one per entry and a margin, so the left factor's rows are loads of whole windows, and the
product runs on tensor cores.

Forward, the lambdas stay in registers until they are applied to the queries. The backward writes the gradient of the
lambdas for some images at a time, in the inputs' precision; those of values and table are two more matrix products.
All sums are in float32 and in a fixed order: the same inputs give the same gradients on the same GPU.

A graph that was exported on another machine may run without Triton: the operator then computes the same as
`scores_first`.
"""

import os
from collections.abc import Callable
from functools import cache
from math import ceil
from types import ModuleType
from typing import Any, NamedTuple

import torch
from torch import Tensor

from lambdanets.ops import scores
from lambdanets.ops.custom_op import define_op
from lambdanets.ops.triton_partition import TILE, Partition, round_up

DTYPES = (torch.float32, torch.bfloat16, torch.float16)


@torch.compiler.assume_constant_result
def triton_error() -> str | None:
    """Return why the programs can't run on this machine's GPU, or None."""
    return try_triton()


@cache
def try_triton() -> str | None:
    try:
        load_programs()
    except ImportError as error:
        return f"Triton can't be imported ({error})"
    if not torch.cuda.is_available():
        return "there is no GPU"
    if torch.version.cuda and torch.cuda.get_device_capability() < (8, 0):
        return f"{torch.cuda.get_device_name()} is older than compute capability 8.0"
    return None


@cache
def load_programs() -> ModuleType:
    """Import the programs; importing Triton takes seconds that a machine without a GPU saves."""
    from lambdanets.ops import triton_programs

    return triton_programs


@cache
def constant_names(program: str) -> tuple[str, ...]:
    """List the arguments of a program that are compiled into it; they have upper-case names."""
    return tuple(name for name in getattr(load_programs(), program).arg_names if name.isupper())


def is_interpreted() -> bool:
    """Return whether Triton runs its programs in NumPy, on a CPU."""
    return os.environ.get("TRITON_INTERPRET") == "1"


def supports(device: str, dtype: torch.dtype, key_depth: int) -> bool:
    """Return whether the programs can run on a type of device, with tensors of this type and depth k."""
    return device == "cuda" and dtype in DTYPES and round_up(key_depth) <= TILE and triton_error() is None


def is_available(query: Tensor) -> bool:
    if is_interpreted() and query.device.type == "cpu":
        return query.dtype in DTYPES
    return supports(query.device.type, query.dtype, query.shape[4])


class Launch(NamedTuple):
    """Launch of a program.

    Args:
        program: its name in `triton_programs.py`.
        grid: numbers of its instances.
        arguments: tensors and sizes.
        constants: by name, compiled into the program.
        warps: per instance.
        stages: steps of a sum whose loads are under way at a time.
    """

    program: str
    grid: tuple[int, ...]
    arguments: tuple[Any, ...]
    constants: dict[str, Any]
    warps: int
    stages: int

    def run(self) -> None:
        program = getattr(load_programs(), self.program)
        program[self.grid](*self.arguments, **self.constants, num_warps=self.warps, num_stages=self.stages)


class Product:
    """The sizes of one product, and the launches that compute it.

    Args:
        query: (B, H, W, h, k).
        values: (B, H', W', u, v).
        table: (k, u, R, C).
        run: called with each launch.
        processors: multiprocessors of the GPU.
    """

    def __init__(
        self, query: Tensor, values: Tensor, table: Tensor, run: Callable[[Launch], None], processors: int
    ) -> None:
        self.batch, self.height, self.width, self.heads, self.key_depth = query.shape
        _, self.context_height, self.context_width, self.intra_depth, self.value_depth = values.shape
        self.scope = table.shape[2], table.shape[3]
        self.run = run
        self.processors = processors
        self.dtype = query.dtype
        self.partition = Partition(
            self.batch,
            (self.height, self.width),
            (self.context_height, self.context_width),
            key_depth=self.key_depth,
            value_depth=self.value_depth,
            intra_depth=self.intra_depth,
            scope=self.scope,
            dtype=query.dtype,
        )
        self.tiling = self.partition.tiling
        self.sizes = self.height, self.width, self.context_height, self.context_width
        self.constants = {
            "HEADS": self.heads,
            "K": self.key_depth,
            "U": self.intra_depth,
            "V": self.value_depth,
            "R": self.scope[0],
            "C": self.scope[1],
            "QUERIES": self.tiling.queries,
            "KEYS": self.tiling.keys,
            "IMAGES": self.tiling.images,
            "DEPTH": self.tiling.depth,
            "PRECISION": "tf32" if self.dtype == torch.float32 and allows_tf32() else "ieee",
        }

    @staticmethod
    def on_gpu(query: Tensor, values: Tensor, table: Tensor) -> "Product":
        return Product(query, values, table, Launch.run, count_processors(query.device))

    def launch(self, program: str, grid: tuple[int, ...], *arguments: Any, **constants: Any) -> None:
        """Launch a program with those constants that it takes, of the given ones and of the product."""
        known = {**self.constants, **constants}
        taken = {name: known[name] for name in constant_names(program)}
        # Four warps do not have the registers for larger tiles; some programs would spill on sm_80.
        large = self.tiling.rows * self.tiling.columns >= TILE * TILE // 4
        stages = 2 if self.dtype == torch.float32 else 3
        self.run(Launch(program, grid, arguments, taken, warps=8 if large else 4, stages=stages))

    def expand_table(self, table: Tensor) -> Tensor:
        """Return the windows of a table: (k, u, R, C) → (R, u, C + queries − 1, rows)."""
        windows = table.new_empty(self.scope[0], self.intra_depth, self.partition.windows, self.tiling.rows)
        self.launch("expand_table", (ceil(windows.numel() / 1024),), table, windows, windows.numel(), BLOCK=1024)
        return windows

    def apply_lambdas(self, query: Tensor, values: Tensor, table: Tensor, content: Tensor) -> Tensor:
        """Return the result (B, H, W, h, v)."""
        y = query.new_empty(*query.shape[:4], self.value_depth)
        grid = self.partition.tiles, self.partition.blocks(self.batch)
        inputs = query, values, self.expand_table(table), content
        self.launch("apply_lambdas", grid, *inputs, y, self.batch, *self.sizes, **self.sum_patch())
        return y

    def differentiate_queries(self, grad: Tensor, values: Tensor, windows: Tensor, content: Tensor) -> Tensor:
        """Return the gradient of the queries (B, H, W, h, k); the lambdas are computed once more."""
        dtype = torch.float32 if self.partition.depth_blocks > 1 else grad.dtype
        d_query = grad.new_empty(self.partition.depth_blocks, *grad.shape[:4], self.key_depth, dtype=dtype)
        grid = self.partition.tiles, self.partition.blocks(self.batch)
        inputs = grad, values, windows, content
        self.launch("differentiate_queries", grid, *inputs, d_query, self.batch, *self.sizes, **self.sum_patch())
        return d_query.sum(0) if self.partition.depth_blocks > 1 else d_query[0]

    def sum_patch(self) -> dict[str, int]:
        rows, columns = self.partition.lambdas_patch
        return {"STEP_ROWS": rows, "STEP_COLUMNS": columns}

    def differentiate_lambdas(self, grad: Tensor, query: Tensor) -> Tensor:
        """Return the gradient of the lambdas of some images: (tiles, rows, columns of all blocks)."""
        blocks = self.partition.blocks(len(grad))
        d_lambdas = grad.new_empty(self.partition.tiles, self.tiling.rows, blocks * self.tiling.columns)
        sizes = len(grad), self.height, self.width
        self.launch("differentiate_lambdas", (self.partition.tiles, blocks), query, grad, d_lambdas, *sizes)
        return d_lambdas

    def differentiate_values(self, d_lambdas: Tensor, windows: Tensor, d_values: Tensor) -> None:
        """Write the gradient of the values of some images (B, H', W', u, v)."""
        blocks = self.partition.blocks(len(d_values))
        patch = self.partition.values_patch
        patches = ceil(self.context_height / patch[0]) * ceil(self.context_width / patch[1])
        grid = patches * self.intra_depth, blocks
        sizes = len(d_values), *self.sizes, blocks
        constants = {"PATCH_ROWS": patch[0], "PATCH_COLUMNS": patch[1], "STEP": self.partition.values_step}
        self.launch("differentiate_values", grid, d_lambdas, windows, d_values, *sizes, **constants)

    def differentiate_windows(self, d_lambdas: Tensor, values: Tensor) -> Tensor:
        """Return the gradient of the windows (R, u, C + queries − 1, rows), summed over some images, in float32."""
        blocks = self.partition.blocks(len(values))
        patch = self.partition.windows_patch
        parts = self.partition.window_parts(self.processors)
        shape = parts, self.scope[0], self.intra_depth, self.partition.windows, self.tiling.rows
        d_windows = values.new_empty(shape, dtype=torch.float32)
        sizes = len(values), *self.sizes, blocks
        constants = {"PATCH_ROWS": patch[0], "PATCH_COLUMNS": patch[1], "STEP": self.partition.windows_step}
        grid = self.partition.windows_patches, parts
        self.launch("differentiate_windows", grid, d_lambdas, values, d_windows, *sizes, **constants)
        return d_windows.sum(0)

    def fold_windows(self, d_windows: Tensor) -> Tensor:
        """Sum the gradients of windows to that of the table (k, u, R, C)."""
        strides = d_windows.stride()
        # An embedding is in one window per query of a tile, each one window later than the one before.
        shape = self.scope[0], self.intra_depth, self.scope[1], self.tiling.queries, self.tiling.keys
        diagonals = d_windows.as_strided(shape, (*strides[:3], strides[2] + self.tiling.keys, 1))
        return diagonals.sum(3)[..., : self.key_depth].permute(3, 1, 0, 2)

    def differentiate(
        self, grad: Tensor, query: Tensor, values: Tensor, table: Tensor, content: Tensor
    ) -> tuple[Tensor, Tensor, Tensor, Tensor]:
        """Return the gradients of query, values, table and content."""
        windows = self.expand_table(table)
        d_content = query.flatten(1, 3).mT @ grad.flatten(1, 3)
        d_query = self.differentiate_queries(grad, values, windows, content)
        d_values = torch.empty_like(values)
        d_windows = torch.zeros_like(windows, dtype=torch.float32)
        images = self.partition.chunk
        for start in range(0, self.batch, images):
            part = slice(start, start + images)
            d_lambdas = self.differentiate_lambdas(grad[part], query[part])
            self.differentiate_values(d_lambdas, windows, d_values[part])
            d_windows += self.differentiate_windows(d_lambdas, values[part])
        return d_query, d_values, self.fold_windows(d_windows), d_content


def list_launches(
    query: Tensor, values: Tensor, table: Tensor, content: Tensor, *, training: bool, processors: int
) -> list[Launch]:
    """List the launches for tensors of these sizes, which may be on the device "meta", without running them."""
    launches: list[Launch] = []
    product = Product(query, values, table, launches.append, processors)
    y = product.apply_lambdas(query, values, table, content)
    if training:
        product.differentiate(y, query, values, table, content)
    return launches


def allows_tf32() -> bool:
    """Return whether PyTorch's own matrix products of float32 may be in TF32."""
    matmul = torch.backends.cuda.matmul
    # Newer versions of PyTorch refuse to read the old attribute once the new one was set.
    return matmul.fp32_precision == "tf32" if hasattr(matmul, "fp32_precision") else matmul.allow_tf32


def count_processors(device: torch.device) -> int:
    """Count a GPU's multiprocessors; one for the interpreter."""
    return torch.cuda.get_device_properties(device).multi_processor_count if device.type == "cuda" else 1


def forward(query: Tensor, values: Tensor, table: Tensor, content: Tensor, saved: Tensor) -> Tensor:
    if not is_available(query):
        return scores.forward(query, values, table, content, saved)
    values, table, content = (tensor.to(query.dtype) for tensor in (values, table, content))
    with torch.cuda.device_of(query):  # Triton launches on the current GPU
        return Product.on_gpu(query, values, table).apply_lambdas(query, values, table, content)


def backward(
    grad: Tensor, query: Tensor, values: Tensor, table: Tensor, content: Tensor, saved: Tensor
) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    if not is_available(query):
        return scores.backward(grad, query, values, table, content, saved)
    grad, values, table, content = (tensor.to(query.dtype) for tensor in (grad, values, table, content))
    with torch.cuda.device_of(query):
        return Product.on_gpu(query, values, table).differentiate(grad, query, values, table, content)


triton_lambdas = define_op("triton_lambdas", forward, backward)
