"""Random splits."""

import pytest

from lambdanets.data.split import split_indices
from lambdanets.errors import UserError


def test_splits_are_disjoint_complete_and_seeded():
    train, held_out = split_indices(100, 0.2, seed=0)
    assert len(held_out) == 20
    assert sorted([*train.tolist(), *held_out.tolist()]) == list(range(100))
    assert split_indices(100, 0.2, seed=0)[1].tolist() == held_out.tolist()
    assert split_indices(100, 0.2, seed=1)[1].tolist() != held_out.tolist()


def test_a_held_out_part_may_be_a_number_of_images():
    assert len(split_indices(100, 7, seed=0)[1]) == 7
    assert len(split_indices(100, 1, seed=0)[1]) == 1


@pytest.mark.parametrize("held_out", [0.001, 0, 10, 11])
def test_an_empty_part_is_an_error(held_out):
    with pytest.raises(UserError, match=rf"data\.val_size={held_out} leaves no training or no validation images of 10"):
        split_indices(10, held_out, seed=0)
