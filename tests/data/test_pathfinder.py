"""Pathfinder's splits: functions of the arguments and of split_seed."""

import pytest
import torch

from lambdanets.data import Pathfinder
from lambdanets.errors import UserError


def test_splits_are_functions_of_split_seed_and_differ_from_each_other():
    def load_splits(**options):
        data = Pathfinder(difficulty="easy", train_images=50, val_images=50, test_images=50, **options)
        data.setup("fit")
        data.setup("test")
        return [split.tensors for split in (data.train_set, data.val_set, data.test_set)]

    splits = load_splits()
    for (images, labels), (other_images, other_labels) in zip(splits, load_splits(seed=5), strict=True):
        assert torch.equal(images, other_images)
        assert torch.equal(labels, other_labels)
    assert not torch.equal(splits[0][0], splits[1][0])
    assert not torch.equal(splits[1][0], splits[2][0])
    assert not torch.equal(splits[0][0], load_splits(split_seed=1)[0][0])


@pytest.mark.parametrize("side", [32, 48, 64])
@pytest.mark.parametrize("difficulty", ["easy", "medium", "hard"])
def test_every_difficulty_has_images_of_both_classes(side, difficulty):
    images, labels = Pathfinder(side=side, difficulty=difficulty, val_images=22).make_split(1).tensors
    assert images.shape == (22, 1, side, side)
    assert images.dtype == torch.uint8
    assert set(labels.tolist()) == {0, 1}


def test_errors():
    with pytest.raises(UserError, match="difficulty=impossible is not known; choose one of easy, medium, hard"):
        Pathfinder(difficulty="impossible")
    with pytest.raises(UserError, match="side=16 is too small"):
        Pathfinder(side=16)
