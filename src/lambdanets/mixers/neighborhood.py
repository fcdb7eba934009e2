"""Attention within the r × r neighborhood of each position, tile by tile.

A tile of s × s queries and the window of (s + r − 1)² positions around it make one small attention, with a mask for
positions outside of a query's own neighborhood. Keys and values are copied (s + r − 1)² / s² times, about three times,
instead of r² times as by unfolding the neighborhood of each position. Along an axis with one tile, the window
is the map.
"""

from collections.abc import Callable
from math import ceil

import torch
from torch import Tensor
from torch.nn import functional as F

from lambdanets.errors import UserError
from lambdanets.mixers.interface import attend

TILE = 8
Size = tuple[int, int]


def neighborhood_attention(
    query: Tensor, key: Tensor, value: Tensor, bias: Callable[[Tensor, Size], Tensor], *, scope: int, scale: float
) -> Tensor:
    """Compute Σ_m softmax_m(scale · q_n · k_m + b_nm) v_m over the existing positions m of n's neighborhood.

    Args:
        query: (B, h, d, H, W).
        key: of the same shape.
        value: (B, h, v, H, W).
        bias: function of a tile's queries (N, h, s, s', d) and the window's size (w, w') that gives b,
            (N or 1, h, s, s', w, w').
        scope: r, odd.
        scale: factor of the products.

    Returns:
        (B, h, v, H, W).
    """
    height, width = query.shape[3:]
    tile = even_tile_side(height), even_tile_side(width)
    count = ceil(height / tile[0]), ceil(width / tile[1])
    margin = window_margin(count[0], scope), window_margin(count[1], scope)
    window = tile[0] + 2 * margin[0], tile[1] + 2 * margin[1]
    queries = extract_windows(query, count, tile, tile, (0, 0))
    keys, values = (extract_windows(tensor, count, window, tile, margin) for tensor in (key, value))
    hidden = ~visible_positions(height, width, count, tile, margin, scope, query.device)
    added = bias(queries, window).flatten(4, 5).flatten(2, 3)
    tiles = count[0] * count[1]
    added = added.unflatten(0, (-1, 1 if added.shape[0] == 1 else tiles)).masked_fill(hidden, -torch.inf)
    queries, keys, values = (
        windows.flatten(2, 3).unflatten(0, (-1, tiles)).flatten(1, 2) for windows in (queries, keys, values)
    )
    mask = added.to(query.dtype).flatten(1, 2)
    y = attend(queries, keys, values, mask, scale)
    y = y.unflatten(2, tile).unflatten(1, (*count, -1))  # (B, tiles, tiles', h, s, s', v)
    y = y.permute(0, 3, 6, 1, 4, 2, 5).flatten(5, 6).flatten(3, 4)
    return y[..., :height, :width]


def even_tile_side(length: int) -> int:
    """Return the side, at most TILE, of the tiles that cover a length with the least rest."""
    return ceil(length / ceil(length / TILE))


def window_margin(tiles: int, scope: int) -> int:
    """Return how far windows reach beyond their tiles: not at all if a single tile has all positions of the map."""
    return scope // 2 if tiles > 1 else 0


def extract_windows(maps: Tensor, count: Size, window: Size, step: Size, margin: Size) -> Tensor:
    """Extract windows every step positions, with zeros beyond the map: (B, h, d, H, W) → (B · tiles, h, w, w', d)."""
    rows, columns = (tiles * side + 2 * edge for tiles, side, edge in zip(count, step, margin, strict=True))
    after = rows - margin[0] - maps.shape[3], columns - margin[1] - maps.shape[4]
    maps = F.pad(maps, (margin[1], after[1], margin[0], after[0]))
    windows = maps.unfold(3, window[0], step[0]).unfold(4, window[1], step[1])
    return windows.permute(0, 3, 4, 1, 5, 6, 2).flatten(0, 2).contiguous()


def visible_positions(
    height: int, width: int, count: Size, tile: Size, margin: Size, scope: int, device: torch.device
) -> Tensor:
    """Return the mask of the positions of its window that each query sees: boolean (tiles, 1, s · s', w · w').

    Queries beyond the map, which are cut off in the end, see their whole neighborhood: a softmax over nothing has no
    gradient.
    """
    axes = []
    for length, tiles, side, edge in zip((height, width), count, tile, margin, strict=True):
        start = side * torch.arange(tiles, device=device)[:, None, None]
        query = torch.arange(side, device=device)[:, None]
        key = torch.arange(-edge, side + edge, device=device)
        near = (key - query).abs() <= scope // 2
        position = start + key
        axes.append(near & ((position >= 0) & (position < length) | (start + query >= length)))
    rows, columns = axes
    both = rows[:, None, :, None, :, None] & columns[None, :, None, :, None, :]
    return both.flatten(4, 5).flatten(2, 3).flatten(0, 1)[:, None]


def window_embeddings(table: Tensor, side: int, window: int) -> Tensor:
    """Expand a table to each query and each position of its window along one axis: (r, …) → (s, w, …).

    Embeddings of positions outside of the scope are zero.

    Args:
        table: an embedding per offset, (r, …).
        side: s, the tile's.
        window: w, either s + r − 1 or s.
    """
    padding = table.new_zeros(side - 1, *table.shape[1:])
    padded = torch.cat([padding, table, padding])
    embeddings = padded.unfold(0, side + len(table) - 1, 1).flip(0).movedim(-1, 1)
    return embeddings.narrow(1, (embeddings.shape[1] - window) // 2, window)


def check_scope(scope: int) -> None:
    """Check that a scope has a middle position.

    Raises:
        UserError: it has none.
    """
    if not isinstance(scope, int) or scope < 1 or scope % 2 == 0:
        raise UserError(f"scope={scope} has no middle; give an odd number of positions such as 7.")
