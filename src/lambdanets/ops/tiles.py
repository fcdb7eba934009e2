"""Scores first for a local scope, tile by tile.

A tile of queries sees a window of (tile + r − 1)² positions. Embeddings depend on offsets only, so that those of a
tile's queries in its window are the same for every tile: one small matrix per query of a tile, with zeros outside of
the scope, serves all tiles of all images.
"""

from collections.abc import Iterator
from itertools import product
from math import ceil, prod

import torch
from torch import Tensor
from torch.nn import functional as F

from lambdanets.ops.custom_op import Scratch, define_op

Size = tuple[int, int]
# Scores held at a time: on a CPU as many as fit its caches, on a GPU enough to keep it busy.
CHUNK = {"cpu": 2**19, "cuda": 2**26}


def forward(query: Tensor, values: Tensor, table: Tensor, content: Tensor, saved: Tensor) -> Tensor:
    tiling = Tiling(query, values, table)
    embeddings, padded = tiling.embeddings(table), tiling.pad(values)
    y = query.new_empty(*query.shape[:4], values.shape[4])
    for queries, context in tiling.bands():
        scores = tiling.scores(tiling.by_query(query[queries]), embeddings)
        tiling.write_tiles(y[queries], tiling.scratch.product("y", scores, tiling.windows(padded[context])))
    flat = y.flatten(1, 3)
    return flat.baddbmm_(query.flatten(1, 3), content).view(y.shape)


def backward(
    grad: Tensor, query: Tensor, values: Tensor, table: Tensor, content: Tensor, saved: Tensor
) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    tiling = Tiling(query, values, table)
    embeddings, padded = tiling.embeddings(table), tiling.pad(values)
    d_query, d_padded = query.new_empty(query.shape), torch.zeros_like(padded)
    d_embeddings = torch.zeros_like(embeddings, dtype=torch.promote_types(embeddings.dtype, torch.float32))
    for queries, band in tiling.bands():
        context, q, g = tiling.windows(padded[band]), tiling.by_query(query[queries]), tiling.by_tile(grad[queries])
        scores = tiling.scores(q, embeddings)
        tiling.add_windows(d_padded[band], tiling.scratch.product("d context", scores.mT, g))
        d_scores = tiling.scratch.product("scores", g, context.mT)  # in the buffer of the scores
        d_scores = d_scores.view(-1, len(embeddings), embeddings.shape[2]).transpose(0, 1)
        tiling.write_queries(d_query[queries], tiling.scratch.product("d query", d_scores, embeddings.mT))
        d_embeddings += torch.bmm(q.mT, d_scores)
    flat_grad, flat_query = grad.flatten(1, 3), query.flatten(1, 3)
    d_query.flatten(1, 3).baddbmm_(flat_grad, content.mT)
    d_content = torch.bmm(flat_query.mT, flat_grad)
    return d_query, tiling.crop(d_padded), tiling.add_embeddings(d_embeddings).to(table.dtype), d_content


tiled_scores = define_op("tiled_scores", forward, backward)


def best_tile_side(length: int, scope: int) -> int:
    """Return the tile side that wastes the least work on padding and on offsets outside of the scope, along one axis.

    With sides below 4 the matrix products would be too small to be fast.
    """
    sides = range(min(4, length), min(length, 8) + 1)
    return min(sides, key=lambda side: (ceil(length / side) * side * (side + scope - 1), -side))


class Tiling:
    """The tiles of a map: their sizes, and the copies between the map and its tiles.

    A band is a few rows of tiles of a few images: G tiles of t queries each, with c positions in their windows, counted
    once per intra-depth.
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
        """Yield a band's images and rows of queries, and its images and rows of the padded values."""
        row = self.heads * self.count[1] * self.tile[0] * self.tile[1] * prod(self.window) * self.intra_depth
        band_rows = max(1, self.limit // max(1, row))
        images, rows = max(1, band_rows // self.count[0]), min(band_rows, self.count[0])
        for image in range(0, self.batch, images):
            band_images = slice(image, min(self.batch, image + images))
            for start in range(0, self.count[0], rows):
                first, last = start * self.tile[0], min(start + rows, self.count[0]) * self.tile[0]
                yield (
                    (band_images, slice(first, min(last, self.height))),
                    (band_images, slice(first, last + self.scope[0] - 1)),
                )

    def scores(self, query: Tensor, embeddings: Tensor) -> Tensor:
        """Multiply q (t, G·h, k) by E (t, k, c): the scores (G, h·t, c)."""
        count, _, window = embeddings.shape
        # A product that writes in this order directly is several times slower than the copy.
        by_query = self.scratch.product("scores by query", query, embeddings)
        scores = self.scratch("scores", query.shape[1], count, window).copy_(by_query.transpose(0, 1))
        return scores.view(-1, self.heads * count, window)

    def embeddings(self, table: Tensor) -> Tensor:
        """Return E_nm of a tile's queries and its window: (t, k, c)."""
        embeddings = table.new_zeros(*self.tile, *table.shape[:2], *self.window)
        for y, x in self.positions():
            embeddings[y, x, ..., y : y + self.scope[0], x : x + self.scope[1]] = table
        return embeddings.flatten(0, 1).flatten(2)

    def add_embeddings(self, embeddings: Tensor) -> Tensor:
        """Sum (t, k, c) to a table: the transpose of `embeddings`."""
        embeddings = embeddings.view(*self.tile, self.key_depth, self.intra_depth, *self.window)
        return sum(
            (embeddings[y, x, ..., y : y + self.scope[0], x : x + self.scope[1]] for y, x in self.positions()),
            start=embeddings.new_zeros(*embeddings.shape[2:4], *self.scope),
        )

    def positions(self) -> Iterator[Size]:
        return product(range(self.tile[0]), range(self.tile[1]))

    def pad(self, values: Tensor) -> Tensor:
        """Pad a map with zeros, so that every tile has a complete window."""
        margins = [0, 0, 0, 0]
        for axis in (1, 0):
            before = self.scope[axis] // 2
            size = self.count[axis] * self.tile[axis] + self.scope[axis] - 1
            margins += [before, size - before - (self.height, self.width)[axis]]
        return F.pad(values, margins)

    def crop(self, padded: Tensor) -> Tensor:
        """Remove the padding: the transpose of `pad`."""
        above, left = self.scope[0] // 2, self.scope[1] // 2
        return padded[:, above : above + self.height, left : left + self.width]

    def windows(self, padded: Tensor) -> Tensor:
        """(b, rows, columns, u, v) of a band → (G, c, v)."""
        for axis in (0, 1):
            padded = padded.unfold(axis + 1, self.window[axis], self.tile[axis])
        # (b, rows of tiles, columns of tiles, u, v, height, width)
        return padded.permute(0, 1, 2, 3, 5, 6, 4).flatten(0, 2).flatten(1, 3)

    def add_windows(self, total: Tensor, windows: Tensor) -> None:
        """Add windows to a band: the transpose of `windows`. Those of one step don't overlap."""
        (window_height, window_width), (tile_height, tile_width) = self.window, self.tile
        depths = self.intra_depth, windows.shape[-1]
        windows = windows.view(len(total), -1, self.count[1], depths[0], window_height, window_width, depths[1])
        rows, columns = windows.shape[1:3]
        step = ceil(window_height / tile_height), ceil(window_width / tile_width)
        for y in range(min(step[0], rows)):
            for x in range(min(step[1], columns)):
                part = windows[:, y :: step[0], x :: step[1]]
                target = total[:, y * tile_height :, x * tile_width :]
                strides = target.stride()
                target = target.as_strided(
                    (len(windows), *part.shape[1:3], window_height, window_width, *depths),
                    (strides[0], step[0] * tile_height * strides[1], step[1] * tile_width * strides[2], *strides[1:]),
                )
                target += part.permute(0, 1, 2, 4, 5, 3, 6)

    def cut(self, query: Tensor) -> Tensor:
        """Cut a band into tiles, padded with zeros: (b, rows, W, h, ·) → (b, rows, height, columns, width, h, ·)."""
        below, right = -query.shape[1] % self.tile[0], -query.shape[2] % self.tile[1]
        if below or right:
            query = F.pad(query, (0, 0, 0, 0, 0, right, 0, below))
        return query.unflatten(2, (-1, self.tile[1])).unflatten(1, (-1, self.tile[0]))

    def by_query(self, query: Tensor) -> Tensor:
        """(b, rows, W, h, k) → (t, G·h, k)."""
        return self.cut(query).permute(2, 4, 0, 1, 3, 5, 6).flatten(2, 5).flatten(0, 1)

    def by_tile(self, grad: Tensor) -> Tensor:
        """(b, rows, W, h, v) → (G, h·t, v)."""
        return self.cut(grad).permute(0, 1, 3, 5, 2, 4, 6).flatten(3, 5).flatten(0, 2)

    def write_tiles(self, target: Tensor, tiles: Tensor) -> None:
        """Write (G, h·t, v) to (b, rows, W, h, v)."""
        tiles = tiles.view(len(target), -1, self.count[1], self.heads, *self.tile, target.shape[4])
        self.join(target, tiles.permute(0, 1, 4, 2, 5, 3, 6))

    def write_queries(self, target: Tensor, queries: Tensor) -> None:
        """Write (t, G·h, k) to (b, rows, W, h, k)."""
        queries = queries.view(*self.tile, len(target), -1, self.count[1], self.heads, self.key_depth)
        self.join(target, queries.permute(2, 3, 0, 4, 1, 5, 6))

    def join(self, target: Tensor, tiles: Tensor) -> None:
        rows, width = target.shape[1:3]
        if rows % self.tile[0] == 0 and width % self.tile[1] == 0:
            self.cut(target).copy_(tiles)
        else:
            target.copy_(tiles.flatten(3, 4).flatten(1, 2)[:, :rows, :width])
