"""Tables of relative position embeddings."""

import torch

from lambdanets.ops import resize_table


def test_a_resized_table_keeps_its_corners_and_its_middle():
    table = torch.randn(3, 2, 7, 9)
    resized = resize_table(table, 7, 8)
    assert resized.shape == (3, 2, 13, 15)
    for before, after in (((0, 0), (0, 0)), ((3, 4), (6, 7)), ((6, 8), (12, 14))):
        torch.testing.assert_close(resized[:, :, after[0], after[1]], table[:, :, before[0], before[1]])
