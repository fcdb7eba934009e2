"""Scores first with standard operators only, for exported graphs: s_nm^h = q_n^h · E_nm, then y_n^h = Σ_m s_nm^h v_m.

A band is some rows of queries. Each of its rows sees a window of whole rows of the context, at the same offsets for all
rows of the band, so that a band needs one matrix of embeddings per column of queries. These are constants of a graph.
The scores of one band exist at a time.
"""

from collections.abc import Mapping
from typing import NamedTuple

import torch
from torch import Tensor
from torch.nn import functional as F

from lambdanets.ops.table import Size, scope_to_offsets


class Window(NamedTuple):
    """The offsets from a row of queries to the rows of the context that it sees, from `first` to `last`."""

    first: int
    last: int


class Band(NamedTuple):
    """Rows of queries, from `start` to before `stop`, and their window."""

    start: int
    stop: int
    window: Window


def cut_bands(height: int, scope: int, rows: int) -> list[Band]:
    """Cut a map into bands, with the smallest windows that hold each visible position of it.

    Args:
        height: H.
        scope: rows of the table of embeddings, odd.
        rows: of queries in a band; the last band may have fewer.
    """
    bands = []
    for start in range(0, height, rows):
        stop = min(start + rows, height)
        window = Window(max(-(scope // 2), 1 - stop), min(scope // 2, height - 1 - start))
        bands.append(Band(start, stop, window))
    return bands


def window_embeddings(table: Tensor, size: Size, window: Window) -> Tensor:
    """Expand a table to the embeddings of a window, for each column of queries: (W, k, rows·W·u).

    Args:
        table: (k, u, R, C).
        size: (H, W) of queries and context.
        window: of a band.
    """
    height, width = size
    rows = slice(height - 1 + window.first, height + window.last)
    offsets = scope_to_offsets(table, size)[:, :, rows].permute(0, 2, 3, 1)  # (k, rows, columns, u)
    return torch.stack([offsets[:, :, width - 1 - x : 2 * width - 1 - x].flatten(1) for x in range(width)])


def map_embeddings(table: Tensor, size: Size) -> Tensor:
    """Expand a table to E_nm of all pairs of positions of a map (H, W): (n, k, m·u)."""
    bands = cut_bands(size[0], 2 * size[0] - 1, rows=1)
    return torch.cat([window_embeddings(table, size, band.window) for band in bands])


def banded_scores(
    query: Tensor, values: Tensor, embeddings: Mapping[Window, Tensor], content: Tensor, bands: list[Band]
) -> Tensor:
    """Compute the lambda layer's product band by band, see `lambdanets.ops.lambda_map`: (B, H, W, h, v).

    Args:
        query: (B, H, W, h, k).
        values: (B, H, W, u, v).
        embeddings: from `window_embeddings`, for the windows of all bands.
        content: (B, k, v).
        bands: from `cut_bands`.
    """
    batch, height, width, heads, key_depth = query.shape
    above = max(0, *(-band.start - band.window.first for band in bands))
    below = max(0, *(band.stop + band.window.last - height for band in bands))
    padded = F.pad(values, (0, 0, 0, 0, 0, 0, above, below))
    parts = []
    for band in bands:
        # One product for all rows of the band is large enough to be fast, which pays for the copies to and from it.
        rows = query[:, band.start : band.stop].flatten(3).transpose(1, 2)
        scores = rows.reshape(batch, width, -1, key_depth) @ embeddings[band.window]
        scores = scores.reshape(batch, width, band.stop - band.start, -1).transpose(1, 2)
        window = torch.tensor(window_rows(band), device=values.device) + above
        context = padded.index_select(1, window).reshape(batch, band.stop - band.start, -1, values.shape[4])
        parts.append(scores.reshape(batch, band.stop - band.start, width * heads, -1) @ context)
    position = torch.cat(parts, 1) if len(parts) > 1 else parts[0]
    shared = query.flatten(1, 3) @ content
    return (position.flatten(1, 2) + shared).reshape(batch, height, width, heads, -1)


def window_rows(band: Band) -> list[int]:
    """Return the rows of the context that each row of a band sees, one list after the other."""
    return [y + offset for y in range(band.start, band.stop) for offset in range(band.window[0], band.window[1] + 1)]


def whole_map_scores(query: Tensor, values: Tensor, embeddings: Tensor, content: Tensor) -> Tensor:
    """Compute the lambda layer's product by two matrix products. Args as of `banded_scores`, of `map_embeddings`."""
    batch, height, width, heads, _ = query.shape
    scores = query.flatten(1, 2) @ embeddings
    y = scores.flatten(1, 2) @ values.flatten(1, 3) + query.flatten(1, 3) @ content
    return y.reshape(batch, height, width, heads, -1)
