"""Scores first for a local scope, tile by tile.

A tile of queries sees a window of (tile + r − 1)² positions. What its queries' embeddings are in that window is the
same for every tile, since they depend on offsets only: one small matrix per query of a tile serves all tiles of all
images, zeros outside of the scope included.
"""

from collections.abc import Iterator
from math import ceil

import torch
from torch import Tensor
from torch.nn import functional as F

from lambdanets.ops.library import Scratch, operator
from lambdanets.ops.scores import CHUNK

Size = tuple[int, int]


def forward(query: Tensor, values: Tensor, table: Tensor, content: Tensor, kept: Tensor) -> Tensor:
    cut = Tiling(query, values, table)
    keys = cut.embeddings(table)
    y = query.new_empty(*query.shape[:4], values.shape[4])
    for images in cut.chunks():
        context = cut.windows(values[images])
        scores = cut.scores(cut.by_place(query[images]), keys)
        cut.put(y[images], cut.scratch.product("y", scores, context))
    flat = y.flatten(1, 3)
    return flat.baddbmm_(query.flatten(1, 3), content).view(y.shape)


def backward(
    grad: Tensor, query: Tensor, values: Tensor, table: Tensor, content: Tensor, kept: Tensor
) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    cut = Tiling(query, values, table)
    keys = cut.embeddings(table)
    d_query, d_values = query.new_empty(query.shape), values.new_empty(values.shape)
    d_keys = torch.zeros_like(keys, dtype=torch.promote_types(keys.dtype, torch.float32))
    for images in cut.chunks():
        context, q = cut.windows(values[images]), cut.by_place(query[images])
        g = cut.by_tile(grad[images])
        scores = cut.scores(q, keys)
        d_values[images] = cut.add_windows(cut.scratch.product("d context", scores.mT, g))
        d_scores = cut.scratch.product("scores", g, context.mT)  # in place of the scores themselves
        d_scores = d_scores.view(-1, len(keys), keys.shape[2]).transpose(0, 1)
        cut.put_by_place(d_query[images], cut.scratch.product("d query", d_scores, keys.mT))
        d_keys += torch.bmm(q.transpose(1, 2), d_scores)
    flat_grad, flat_query = grad.flatten(1, 3), query.flatten(1, 3)
    d_query.flatten(1, 3).baddbmm_(flat_grad, content.transpose(1, 2))
    d_content = torch.bmm(flat_query.transpose(1, 2), flat_grad)
    return d_query, d_values, cut.add_embeddings(d_keys).to(table.dtype), d_content


tiled_scores = operator("tiled_scores", forward, backward)


def tile_side(length: int, scope: int) -> int:
    """The side of a tile, along an axis of that length, that wastes the least work on offsets out of scope and padding.

    Below 4 the matrix products become too small to be fast.
    """
    sides = range(min(4, length), min(length, 8) + 1)
    return min(sides, key=lambda side: (ceil(length / side) * side * (side + scope - 1), -side))


class Tiling:
    """How a map is cut: sizes, and the moves between the map and its tiles.

    G tiles of t queries each with c positions in their windows; c counts the intra-depths too.
    """

    def __init__(self, query: Tensor, values: Tensor, table: Tensor) -> None:
        self.batch, self.height, self.width, self.heads, self.key_depth = query.shape
        self.intra_depth = values.shape[3]
        self.scope: Size = (table.shape[2], table.shape[3])
        self.tile: Size = (tile_side(self.height, self.scope[0]), tile_side(self.width, self.scope[1]))
        self.count: Size = (ceil(self.height / self.tile[0]), ceil(self.width / self.tile[1]))
        self.window: Size = (self.tile[0] + self.scope[0] - 1, self.tile[1] + self.scope[1] - 1)
        self.scratch = Scratch(query)
        self.limit = CHUNK.get(query.device.type, CHUNK["cuda"])

    def chunks(self) -> Iterator[slice]:
        """Images, as many at a time as CHUNK allows."""
        one = self.heads * self.height * self.width * self.window[0] * self.window[1] * self.intra_depth
        step = max(1, self.limit // max(1, one))
        for start in range(0, self.batch, step):
            yield slice(start, min(self.batch, start + step))

    def scores(self, query: Tensor, keys: Tensor) -> Tensor:
        """Q (t, G·h, k) and E (t, k, c) → s (G, h·t, c)."""
        # A product that wrote into this order directly would be several times as slow as the copy.
        by_place = self.scratch.product("by place", query, keys)
        scores = self.scratch("scores", query.shape[1], len(keys), keys.shape[2]).copy_(by_place.transpose(0, 1))
        return scores.view(-1, self.heads * len(keys), keys.shape[2])

    def embeddings(self, table: Tensor) -> Tensor:
        """E_nm within a tile's window: (t, k, c)."""
        keys = table.new_zeros(*self.tile, *table.shape[:2], *self.window)
        for y, x in self.places():
            keys[y, x, ..., y : y + self.scope[0], x : x + self.scope[1]] = table
        return keys.flatten(0, 1).flatten(2)

    def add_embeddings(self, keys: Tensor) -> Tensor:
        """The transpose of `embeddings`."""
        keys = keys.view(*self.tile, self.key_depth, self.intra_depth, *self.window)
        return sum(
            (keys[y, x, ..., y : y + self.scope[0], x : x + self.scope[1]] for y, x in self.places()),
            start=keys.new_zeros(*keys.shape[2:4], *self.scope),
        )

    def places(self) -> Iterator[Size]:
        return ((y, x) for y in range(self.tile[0]) for x in range(self.tile[1]))

    def windows(self, values: Tensor) -> Tensor:
        """(b, H, W, u, v) → (G, c, v)."""
        values = F.pad(values, (0, 0, 0, 0, *self.margin(1), *self.margin(0)))
        for axis in (0, 1):
            values = values.unfold(axis + 1, self.window[axis], self.tile[axis])
        # (b, rows, columns, u, v, height, width)
        return values.permute(0, 1, 2, 3, 5, 6, 4).flatten(0, 2).flatten(1, 3)

    def add_windows(self, windows: Tensor) -> Tensor:
        """The transpose of `windows`, by classes of tiles whose windows don't overlap."""
        rows, columns = self.count
        (high, wide), (tall, broad) = self.window, self.tile
        depths = self.intra_depth, windows.shape[-1]
        windows = windows.view(-1, rows, columns, depths[0], high, wide, depths[1])
        total = windows.new_zeros(len(windows), *self.padded(), *depths)
        apart = ceil(high / tall), ceil(wide / broad)
        for y in range(min(apart[0], rows)):
            for x in range(min(apart[1], columns)):
                part = windows[:, y :: apart[0], x :: apart[1]]
                place = total[:, y * tall :, x * broad :]
                strides = place.stride()
                place = place.as_strided(
                    (len(windows), *part.shape[1:3], high, wide, *depths),
                    (
                        strides[0],
                        apart[0] * tall * strides[1],
                        apart[1] * broad * strides[2],
                        *strides[1:],
                    ),
                )
                place += part.permute(0, 1, 2, 4, 5, 3, 6)
        above, left = self.margin(0)[0], self.margin(1)[0]
        return total[:, above : above + self.height, left : left + self.width]

    def margin(self, axis: int) -> Size:
        """Positions to add before and behind the map so that every tile has its whole window."""
        before = self.scope[axis] // 2
        return before, self.padded()[axis] - before - (self.height, self.width)[axis]

    def padded(self) -> Size:
        height, width = (
            count * tile + scope - 1 for count, tile, scope in zip(self.count, self.tile, self.scope, strict=True)
        )
        return height, width

    def cut(self, query: Tensor) -> Tensor:
        """(b, H, W, h, ·) → (b, rows, tile height, columns, tile width, h, ·), a map that doesn't fit filled up."""
        (rows, columns), (tall, broad) = self.count, self.tile
        below, right = rows * tall - self.height, columns * broad - self.width
        if below or right:
            query = F.pad(query, (0, 0, 0, 0, 0, right, 0, below))
        return query.unflatten(2, (columns, broad)).unflatten(1, (rows, tall))

    def by_place(self, query: Tensor) -> Tensor:
        """(b, H, W, h, k) → (t, G·h, k)."""
        return self.cut(query).permute(2, 4, 0, 1, 3, 5, 6).flatten(2, 5).flatten(0, 1)

    def by_tile(self, grad: Tensor) -> Tensor:
        """(b, H, W, h, v) → (G, h·t, v)."""
        return self.cut(grad).permute(0, 1, 3, 5, 2, 4, 6).flatten(3, 5).flatten(0, 2)

    def put(self, target: Tensor, tiles: Tensor) -> None:
        """Writes (G, h·t, v) to (b, H, W, h, v)."""
        tiles = tiles.view(len(target), *self.count, self.heads, *self.tile, -1)
        self.join(target, tiles.permute(0, 1, 4, 2, 5, 3, 6))

    def put_by_place(self, target: Tensor, places: Tensor) -> None:
        """Writes (t, G·h, k) to (b, H, W, h, k)."""
        places = places.view(*self.tile, len(target), *self.count, self.heads, self.key_depth)
        self.join(target, places.permute(2, 3, 0, 4, 1, 5, 6))

    def join(self, target: Tensor, tiles: Tensor) -> None:
        if self.height % self.tile[0] == 0 and self.width % self.tile[1] == 0:
            self.cut(target).copy_(tiles)
        else:
            target.copy_(tiles.flatten(3, 4).flatten(1, 2)[:, : self.height, : self.width])
