"""The order of images: complete, shared out among processes, a function of the seed."""

import pytest

from lambdanets.data.batches import ResumableBatchSampler
from lambdanets.data.split import split_indices
from lambdanets.errors import UserError


@pytest.mark.parametrize("world", [1, 2, 3, 4])
@pytest.mark.parametrize("size", [8, 41, 64])
def test_evaluation_reads_every_image_once_in_equally_many_batches(size, world):
    ranks = [list(ResumableBatchSampler(size, 8, train=False, rank=rank, world_size=world)) for rank in range(world)]
    assert sorted(index for batches in ranks for batch in batches for index in batch) == list(range(size))
    assert {len(batches) for batches in ranks} == {len(ResumableBatchSampler(size, 8, train=False, world_size=world))}
    assert all(1 <= len(batch) <= 8 for batches in ranks for batch in batches)


@pytest.mark.parametrize("world", [1, 2, 4])
def test_a_training_batch_holds_the_same_images_whatever_the_number_of_processes(world):
    alone = [set(batch) for batch in ResumableBatchSampler(50, 16, train=True, seed=3)]
    ranks = [
        list(ResumableBatchSampler(50, 16 // world, train=True, seed=3, rank=rank, world_size=world))
        for rank in range(world)
    ]
    together = [set().union(*batches) for batches in zip(*ranks, strict=True)]
    assert together == alone
    assert len(alone) == 3
    assert all(len(batch) == 16 for batch in together)


def test_epochs_and_seeds_give_different_orders_and_the_same_ones_again():
    def order(seed, epoch):
        batches = ResumableBatchSampler(64, 64, train=True, seed=seed)
        batches.set_epoch(epoch)
        return tuple(next(iter(batches)))

    orders = {order(seed, epoch) for seed in range(3) for epoch in range(3)}
    assert len(orders) == 9
    assert order(1, 2) == order(1, 2)


def test_splits_are_disjoint_complete_and_seeded():
    kept, held_out = split_indices(100, 0.2, seed=0)
    assert len(held_out) == 20
    assert sorted([*kept.tolist(), *held_out.tolist()]) == list(range(100))
    assert split_indices(100, 0.2, seed=0)[1].tolist() == held_out.tolist()
    assert split_indices(100, 0.2, seed=1)[1].tolist() != held_out.tolist()
    assert len(split_indices(100, 7, seed=0)[1]) == 7


def test_mistakes():
    with pytest.raises(UserError, match="fewer than one batch of 8"):
        ResumableBatchSampler(7, 8, train=True)
    with pytest.raises(UserError, match="The split has 1 images, fewer than the 2 processes"):
        ResumableBatchSampler(1, 8, train=False, world_size=2)
    with pytest.raises(UserError, match="batch_size=0"):
        ResumableBatchSampler(7, 0, train=False)
    with pytest.raises(UserError, match=r"data\.val_size=0\.001 leaves no training or no validation images of 10"):
        split_indices(10, 0.001, seed=0)
