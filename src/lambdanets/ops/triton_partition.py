"""Partition of the sums of `triton_programs.py` into programs and steps, in plain numbers: no tensors, no Triton."""

from functools import cache
from math import ceil
from typing import NamedTuple

import torch

# Elements of the lambdas' gradient held at a time.
CHUNK = 2**27
# Rows and columns of a tile of the products: a compromise between reuse and registers.
TILE = 128
# Instances of a program per multiprocessor, at least, for the gradient of a table.
INSTANCES = 4


def round_up(size: int) -> int:
    """Round up to a power of two."""
    return 1 << (size - 1).bit_length()


@cache
def choose_patch(rows: int, columns: int, size: int) -> tuple[int, int]:
    """Choose the sides of patches, powers of two, that cover an area with least waste; at a tie the widest."""
    sides = [(size >> power, 1 << power) for power in range(size.bit_length())]
    return min(sides, key=lambda side: (ceil(rows / side[0]) * ceil(columns / side[1]), side[0]))


class Tiling(NamedTuple):
    """Sizes of a tile of the products, see `triton_programs.py`."""

    queries: int
    keys: int
    images: int
    depth: int

    @staticmethod
    def of(batch: int, width: int, key_depth: int, value_depth: int, dtype: torch.dtype) -> "Tiling":
        keys = round_up(key_depth)
        queries = max(min(TILE // keys, round_up(width)), ceil(16 / keys))
        columns = TILE // 2 if dtype == torch.float32 else TILE  # those of float32 need more registers
        depth = min(round_up(value_depth), columns)
        images = max(min(columns // depth, round_up(batch)), ceil(16 / depth))
        return Tiling(queries, keys, images, depth)

    @property
    def rows(self) -> int:
        return self.queries * self.keys

    @property
    def columns(self) -> int:
        return self.images * self.depth


class Partition:
    """The programs and steps of one product.

    Args:
        batch: B.
        size: (H, W) of the queries' map.
        context: (H', W').
        key_depth: k.
        value_depth: v.
        intra_depth: u.
        scope: (R, C).
        dtype: of all inputs.
    """

    def __init__(
        self,
        batch: int,
        size: tuple[int, int],
        context: tuple[int, int],
        *,
        key_depth: int,
        value_depth: int,
        intra_depth: int,
        scope: tuple[int, int],
        dtype: torch.dtype,
    ) -> None:
        self.batch = batch
        self.size = size
        self.context = context
        self.intra_depth = intra_depth
        self.scope = scope
        self.is_single = dtype == torch.float32
        self.tiling = Tiling.of(batch, size[1], key_depth, value_depth, dtype)
        self.step = 32 if self.is_single else 64  # of the sums, in elements: 64 or 128 bytes
        self.windows = scope[1] + self.tiling.queries - 1
        self.tiles_per_row = ceil(size[1] / self.tiling.queries)
        self.tiles = size[0] * self.tiles_per_row
        self.depth_blocks = ceil(value_depth / self.tiling.depth)

    def blocks(self, batch: int) -> int:
        """Count the blocks of columns (b, v) of some images."""
        return ceil(batch / self.tiling.images) * self.depth_blocks

    @property
    def chunk(self) -> int:
        """Images whose lambdas' gradient is in memory at a time."""
        block_elements = self.tiles * self.tiling.rows * self.tiling.columns * self.depth_blocks
        chunks = ceil(self.blocks(self.batch) / self.depth_blocks * block_elements / CHUNK)
        return self.tiling.images * ceil(self.batch / self.tiling.images / chunks)

    @property
    def lambdas_patch(self) -> tuple[int, int]:
        """Positions of the context that a step of the lambdas' sum covers; u values of a position count as rows."""
        rows = min(self.scope[0], self.context[0]) * self.intra_depth
        return choose_patch(rows, min(self.windows, self.context[1]), self.step)

    @property
    def values_patch(self) -> tuple[int, int]:
        """Positions of the context whose gradient a program writes."""
        return choose_patch(*self.context, TILE // 2)

    @property
    def values_step(self) -> int:
        """Rows (n, k) of the lambdas' gradient that a step of the values' gradient covers."""
        return min(self.step, self.tiling.rows)

    @property
    def windows_patch(self) -> tuple[int, int]:
        """Windows whose gradient a program writes."""
        size = TILE // 2 if self.is_single else TILE
        return choose_patch(self.scope[0] * self.intra_depth, self.windows, size)

    @property
    def windows_step(self) -> int:
        """Columns (b, v) of the lambdas' gradient that a step of the windows' gradient covers."""
        return min(self.step, self.tiling.columns)

    @property
    def windows_patches(self) -> int:
        rows, columns = self.windows_patch
        return ceil(self.scope[0] * self.intra_depth / rows) * ceil(self.windows / columns)

    def window_parts(self, processors: int) -> int:
        """Count the parts of a windows' sum: a small table has few patches, and several programs share each."""
        return ceil(INSTANCES * processors / self.windows_patches)

    def lambdas_steps(self) -> int:
        """Count the steps of all programs that sum lambdas, in the forward pass or for the queries' gradient."""
        rows, columns = self.lambdas_patch
        reach = self.scope[0] // 2, self.scope[1] // 2
        vertical = sum(
            ceil(max(min(y + reach[0] + 1, self.context[0]) - max(y - reach[0], 0), 0) * self.intra_depth / rows)
            for y in range(self.size[0])
        )
        horizontal = sum(
            ceil(max(min(x + self.tiling.queries + reach[1], self.context[1]) - max(x - reach[1], 0), 0) / columns)
            for x in range(0, self.size[1], self.tiling.queries)
        )
        return vertical * horizontal * self.blocks(self.batch)

    def values_steps(self, batch: int) -> int:
        """Count the steps of all programs for the gradient of some images' values."""
        patch, reach, queries = self.values_patch, (self.scope[0] // 2, self.scope[1] // 2), self.tiling.queries
        vertical = sum(
            max(min(row + patch[0] + reach[0], self.size[0]) - max(row - reach[0], 0), 0)
            for row in range(0, self.context[0], patch[0])
        )
        horizontal = sum(
            max(
                ceil(min(column + patch[1] + reach[1], self.size[1]) / queries) - max(column - reach[1], 0) // queries,
                0,
            )
            for column in range(0, self.context[1], patch[1])
        )
        steps_per_tile = self.tiling.rows // self.values_step
        return vertical * horizontal * steps_per_tile * self.intra_depth * self.blocks(batch)

    def windows_steps(self, batch: int) -> int:
        """Count the steps of all programs for the gradient of the windows, summed over some images."""
        patch, reach, queries = self.windows_patch, (self.scope[0] // 2, self.scope[1] // 2), self.tiling.queries
        vertical = sum(
            max(
                min(self.context[0] + reach[0] - row // self.intra_depth, self.size[0])
                - max(reach[0] - (row + patch[0] - 1) // self.intra_depth, 0),
                0,
            )
            for row in range(0, self.scope[0] * self.intra_depth, patch[0])
        )
        horizontal = sum(
            max(
                ceil(min(max(self.context[1] + reach[1] - column, 0), self.size[1]) / queries)
                - ceil(max(reach[1] - (column + patch[1] - 1), 0) / queries),
                0,
            )
            for column in range(0, self.windows, patch[1])
        )
        steps_per_tile = self.blocks(batch) * (self.tiling.columns // self.windows_step)
        return vertical * horizontal * steps_per_tile
