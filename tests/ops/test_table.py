"""Tables of relative position embeddings."""

import torch

from lambdanets.ops import resize_table


def test_a_resized_table_keeps_its_corners_and_its_middle():
    table = torch.randn(3, 2, 7, 9)
    resized = resize_table(table, 7, 8)
    assert resized.shape == (3, 2, 13, 15)
    for before, after in (((0, 0), (0, 0)), ((3, 4), (6, 7)), ((6, 8), (12, 14))):
        torch.testing.assert_close(resized[:, :, after[0], after[1]], table[:, :, before[0], before[1]])


def test_a_map_of_one_row_or_column_has_the_middle_of_the_table():
    table = torch.randn(3, 2, 7, 9)
    assert torch.equal(resize_table(table, 1, 1), table[:, :, 3:4, 4:5])
    assert torch.equal(resize_table(table, 1, 5), table[:, :, 3:4])
    assert torch.equal(resize_table(table, 4, 1), table[:, :, :, 4:5])
