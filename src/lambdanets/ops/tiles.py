"""Scores first for a local scope, tile by tile.

A tile of queries sees a window of (tile + r − 1)² positions. What its queries' embeddings are in that window is the
same for every tile, since they depend on offsets only: one small matrix per query of a tile serves all tiles of all
images, zeros outside of the scope included.
"""

from collections.abc import Iterator
from math import ceil, prod

import torch
from torch import Tensor
from torch.nn import functional as F

from lambdanets.ops.custom_op import Scratch, define_op

Size = tuple[int, int]
# How many scores are held at a time: on a CPU what its caches hold, on a GPU what keeps it busy.
CHUNK = {"cpu": 2**19, "cuda": 2**26}


def forward(query: Tensor, values: Tensor, table: Tensor, content: Tensor, kept: Tensor) -> Tensor:
    cut = Tiling(query, values, table)
    keys, padded = cut.embeddings(table), cut.padded(values)
    y = query.new_empty(*query.shape[:4], values.shape[4])
    for queries, context in cut.bands():
        scores = cut.scores(cut.by_place(query[queries]), keys)
        cut.put(y[queries], cut.scratch.product("y", scores, cut.windows(padded[context])))
    flat = y.flatten(1, 3)
    return flat.baddbmm_(query.flatten(1, 3), content).view(y.shape)


def backward(
    grad: Tensor, query: Tensor, values: Tensor, table: Tensor, content: Tensor, kept: Tensor
) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    cut = Tiling(query, values, table)
    keys, padded = cut.embeddings(table), cut.padded(values)
    d_query, d_padded = query.new_empty(query.shape), torch.zeros_like(padded)
    d_keys = torch.zeros_like(keys, dtype=torch.promote_types(keys.dtype, torch.float32))
    for queries, band in cut.bands():
        context, q, g = cut.windows(padded[band]), cut.by_place(query[queries]), cut.by_tile(grad[queries])
        scores = cut.scores(q, keys)
        cut.add_windows(d_padded[band], cut.scratch.product("d context", scores.mT, g))
        d_scores = cut.scratch.product("scores", g, context.mT)  # in place of the scores themselves
        d_scores = d_scores.view(-1, len(keys), keys.shape[2]).transpose(0, 1)
        cut.put_by_place(d_query[queries], cut.scratch.product("d query", d_scores, keys.mT))
        d_keys += torch.bmm(q.mT, d_scores)
    flat_grad, flat_query = grad.flatten(1, 3), query.flatten(1, 3)
    d_query.flatten(1, 3).baddbmm_(flat_grad, content.mT)
    d_content = torch.bmm(flat_query.mT, flat_grad)
    return d_query, cut.inside(d_padded), cut.add_embeddings(d_keys).to(table.dtype), d_content


tiled_scores = define_op("tiled_scores", forward, backward)


def best_tile_side(length: int, scope: int) -> int:
    """The side of a tile, along an axis of that length, that wastes the least work on offsets out of scope and padding.

    Below 4 the matrix products become too small to be fast.
    """
    sides = range(min(4, length), min(length, 8) + 1)
    return min(sides, key=lambda side: (ceil(length / side) * side * (side + scope - 1), -side))


class Tiling:
    """How a map is cut: sizes, and the moves between the map and its tiles.

    A band is some rows of tiles of some images: G tiles of t queries each, with c positions in their windows. c counts
    the intra-depths too.
    """

    def __init__(self, query: Tensor, values: Tensor, table: Tensor) -> None:
        self.batch, self.height, self.width, self.heads, self.key_depth = query.shape
        self.intra_depth = values.shape[3]
        self.scope: Size = (table.shape[2], table.shape[3])
        self.tile: Size = (best_tile_side(self.height, self.scope[0]), best_tile_side(self.width, self.scope[1]))
        self.count: Size = (ceil(self.height / self.tile[0]), ceil(self.width / self.tile[1]))
        self.window: Size = (self.tile[0] + self.scope[0] - 1, self.tile[1] + self.scope[1] - 1)
        self.scratch = Scratch(query)
        self.limit = CHUNK.get(query.device.type, CHUNK["cuda"])

    def bands(self) -> Iterator[tuple[tuple[slice, slice], tuple[slice, slice]]]:
        """Images and rows of queries, and the same images' rows of the padded values that these see."""
        row = self.heads * self.count[1] * self.tile[0] * self.tile[1] * prod(self.window) * self.intra_depth
        at_once = max(1, self.limit // max(1, row))
        images, rows = max(1, at_once // self.count[0]), min(at_once, self.count[0])
        for image in range(0, self.batch, images):
            some = slice(image, min(self.batch, image + images))
            for start in range(0, self.count[0], rows):
                first, last = start * self.tile[0], min(start + rows, self.count[0]) * self.tile[0]
                yield (some, slice(first, min(last, self.height))), (some, slice(first, last + self.scope[0] - 1))

    def scores(self, query: Tensor, keys: Tensor) -> Tensor:
        """Takes q (t, G·h, k) and E (t, k, c) → s (G, h·t, c)."""
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

    def padded(self, values: Tensor) -> Tensor:
        """The map with zeros around it, so that every tile has its whole window."""
        margins = [0, 0, 0, 0]
        for axis in (1, 0):
            before = self.scope[axis] // 2
            size = self.count[axis] * self.tile[axis] + self.scope[axis] - 1
            margins += [before, size - before - (self.height, self.width)[axis]]
        return F.pad(values, margins)

    def inside(self, padded: Tensor) -> Tensor:
        """The transpose of `padded`."""
        above, left = self.scope[0] // 2, self.scope[1] // 2
        return padded[:, above : above + self.height, left : left + self.width]

    def windows(self, padded: Tensor) -> Tensor:
        """(b, rows, columns, u, v) of a band → (G, c, v)."""
        for axis in (0, 1):
            padded = padded.unfold(axis + 1, self.window[axis], self.tile[axis])
        # (b, rows of tiles, columns of tiles, u, v, height, width)
        return padded.permute(0, 1, 2, 3, 5, 6, 4).flatten(0, 2).flatten(1, 3)

    def add_windows(self, total: Tensor, windows: Tensor) -> None:
        """The transpose of `windows`: adds to a band, by classes of tiles whose windows don't overlap."""
        (high, wide), (tall, broad) = self.window, self.tile
        depths = self.intra_depth, windows.shape[-1]
        windows = windows.view(len(total), -1, self.count[1], depths[0], high, wide, depths[1])
        rows, columns = windows.shape[1:3]
        apart = ceil(high / tall), ceil(wide / broad)
        for y in range(min(apart[0], rows)):
            for x in range(min(apart[1], columns)):
                part = windows[:, y :: apart[0], x :: apart[1]]
                place = total[:, y * tall :, x * broad :]
                strides = place.stride()
                place = place.as_strided(
                    (len(windows), *part.shape[1:3], high, wide, *depths),
                    (strides[0], apart[0] * tall * strides[1], apart[1] * broad * strides[2], *strides[1:]),
                )
                place += part.permute(0, 1, 2, 4, 5, 3, 6)

    def cut(self, query: Tensor) -> Tensor:
        """(b, rows, W, h, ·) → (b, rows, tile height, columns, tile width, h, ·), filled up where tiles don't fit."""
        below, right = -query.shape[1] % self.tile[0], -query.shape[2] % self.tile[1]
        if below or right:
            query = F.pad(query, (0, 0, 0, 0, 0, right, 0, below))
        return query.unflatten(2, (-1, self.tile[1])).unflatten(1, (-1, self.tile[0]))

    def by_place(self, query: Tensor) -> Tensor:
        """(b, rows, W, h, k) → (t, G·h, k)."""
        return self.cut(query).permute(2, 4, 0, 1, 3, 5, 6).flatten(2, 5).flatten(0, 1)

    def by_tile(self, grad: Tensor) -> Tensor:
        """(b, rows, W, h, v) → (G, h·t, v)."""
        return self.cut(grad).permute(0, 1, 3, 5, 2, 4, 6).flatten(3, 5).flatten(0, 2)

    def put(self, target: Tensor, tiles: Tensor) -> None:
        """Writes (G, h·t, v) to (b, rows, W, h, v)."""
        tiles = tiles.view(len(target), -1, self.count[1], self.heads, *self.tile, target.shape[4])
        self.join(target, tiles.permute(0, 1, 4, 2, 5, 3, 6))

    def put_by_place(self, target: Tensor, places: Tensor) -> None:
        """Writes (t, G·h, k) to (b, rows, W, h, k)."""
        places = places.view(*self.tile, len(target), -1, self.count[1], self.heads, self.key_depth)
        self.join(target, places.permute(2, 3, 0, 4, 1, 5, 6))

    def join(self, target: Tensor, tiles: Tensor) -> None:
        rows, width = target.shape[1:3]
        if rows % self.tile[0] == 0 and width % self.tile[1] == 0:
            self.cut(target).copy_(tiles)
        else:
            target.copy_(tiles.flatten(3, 4).flatten(1, 2)[:, :rows, :width])
