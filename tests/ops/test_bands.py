"""Scores first with standard operators, against the definition in float64."""

from itertools import product

import pytest
import torch

from lambdanets.ops.bands import Window, cut_bands, map_embeddings, window_embeddings


def embedding(table, query, position):
    """Return E_nm (k, u) of two positions (row, column); zeros outside of the scope."""
    row, column = (m - n + side // 2 for n, m, side in zip(query, position, table.shape[2:], strict=True))
    inside = 0 <= row < table.shape[2] and 0 <= column < table.shape[3]
    return table[:, :, row, column] if inside else torch.zeros_like(table[:, :, 0, 0])


@pytest.mark.parametrize(
    ("height", "scope", "rows"), [(5, 9, 1), (5, 9, 2), (7, 3, 7), (6, 3, 4), (1, 1, 1), (4, 9, 4)]
)
def test_bands_hold_each_query_once_and_see_each_position_in_its_scope(height, scope, rows):
    bands = cut_bands(height, scope, rows)
    assert [y for band in bands for y in range(band.start, band.stop)] == list(range(height))
    for band in bands:
        visible = {m - n for n in range(band.start, band.stop) for m in range(height) if abs(m - n) <= scope // 2}
        assert visible <= {*range(band.window.first, band.window.last + 1)}
        assert {band.window.first, band.window.last} <= visible  # no row too many


@pytest.mark.parametrize("scope", [(3, 5), (7, 9)])
def test_embeddings_are_those_of_the_offsets(scope):
    size = height, width = 4, 5
    table = torch.randn(2, 3, *scope)
    embeddings = map_embeddings(table, size).view(height, width, 2, height, width, 3)
    for y, x, row, column in product(range(height), range(width), range(height), range(width)):
        assert torch.equal(embeddings[y, x, :, row, column], embedding(table, (y, x), (row, column)))
    window = window_embeddings(table, size, Window(-1, 2)).view(width, 2, 4, width, 3)
    for x, offset, column in product(range(width), range(-1, 3), range(width)):
        assert torch.equal(window[x, :, offset + 1, column], embedding(table, (0, x), (offset, column)))
