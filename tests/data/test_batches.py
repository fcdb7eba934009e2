"""The order of images: complete, divided among processes, a function of the seed."""

import os
import signal

import pytest
import torch
from torch.utils.data import Dataset

from lambdanets.data.batches import (
    LazyDataLoader,
    ResumableBatchSampler,
    SeededBatches,
    derive_seed,
    ignore_signals,
)
from lambdanets.errors import UserError


def ranks_of(size, batch_size, world_size, **options):
    """Return the batches of every process."""
    return [
        list(ResumableBatchSampler(size, batch_size, rank=rank, world_size=world_size, **options))
        for rank in range(world_size)
    ]


@pytest.mark.parametrize("world_size", [1, 2, 3, 4])
@pytest.mark.parametrize("size", [8, 41, 64])
def test_evaluation_reads_every_image_once_in_equally_many_batches(size, world_size):
    ranks = ranks_of(size, 8, world_size, train=False)
    assert sorted(index for batches in ranks for batch in batches for index in batch) == list(range(size))
    length = len(ResumableBatchSampler(size, 8, train=False, world_size=world_size))
    assert {len(batches) for batches in ranks} == {length}
    assert all(1 <= len(batch) <= 8 for batches in ranks for batch in batches)


@pytest.mark.parametrize("world_size", [1, 2, 4])
def test_a_training_batch_has_the_same_images_whatever_the_number_of_processes(world_size):
    single = [set(batch) for batch in ResumableBatchSampler(50, 16, train=True, seed=3)]
    ranks = ranks_of(50, 16 // world_size, world_size, train=True, seed=3)
    assert [set().union(*batches) for batches in zip(*ranks, strict=True)] == single
    assert [len(batch) for batch in single] == [16, 16, 16]
    assert len(set().union(*single)) == 48


def test_epochs_and_seeds_give_different_orders_and_the_same_ones_again():
    def order(seed, epoch):
        batches = ResumableBatchSampler(64, 64, train=True, seed=seed)
        batches.set_epoch(epoch)
        return tuple(next(iter(batches)))

    orders = {order(seed, epoch) for seed in range(3) for epoch in range(3)}
    assert len(orders) == 9
    assert order(1, 2) == order(1, 2)


def test_a_resumed_epoch_continues_with_the_next_batch():
    uninterrupted = list(ResumableBatchSampler(50, 4, train=True, seed=1))
    resumed = ResumableBatchSampler(50, 4, train=True, seed=1, count_finished=lambda: 5)
    assert list(resumed) == uninterrupted[5:]
    evaluation = ResumableBatchSampler(50, 4, train=False, count_finished=lambda: 5)
    assert len(list(evaluation)) == len(evaluation)


def test_batches_have_one_group_except_for_the_remaining_ones():
    groups = [int(index % 3 == 0) for index in range(100)]
    ranks = ranks_of(100, 4, 2, train=True, groups=groups)
    batches = [a + b for a, b in zip(*ranks, strict=True)]
    assert len(batches) == 12
    assert sum(len({groups[index] for index in batch}) == 1 for batch in batches) >= 11
    assert len({index for batch in batches for index in batch}) == 96


def test_seeds_of_images_depend_on_seed_epoch_and_image():
    def seeds(seed, epoch):
        sampler = ResumableBatchSampler(12, 4, train=True, seed=seed)
        sampler.set_epoch(epoch)
        return {index: image_seed for batch in SeededBatches(sampler) for index, image_seed in batch}

    assert seeds(5, 0) == seeds(5, 0)
    assert sorted(seeds(5, 0)) == list(range(12))
    different = [image_seed for seed in (5, 6) for epoch in (0, 1) for image_seed in seeds(seed, epoch).values()]
    assert len(set(different)) == 48


def test_derived_seeds_do_not_overlap_and_are_valid():
    seeds = [derive_seed(seed, count) for seed in range(50) for count in (*range(200), 1 << 32, 1 << 40)]
    assert len(set(seeds)) == len(seeds)
    assert all(0 <= seed < 2**63 for seed in seeds)


class ProcessIds(Dataset):
    """A data set whose items are the ids of the processes that read them."""

    def __len__(self):
        return 12

    def __getitem__(self, index):
        return os.getpid()


def test_a_loader_uses_the_epoch_that_is_set_after_iter():
    sampler = ResumableBatchSampler(12, 4, train=True)
    batches = iter(LazyDataLoader(torch.arange(12), batch_sampler=sampler))
    sampler.set_epoch(3)
    expected = ResumableBatchSampler(12, 4, train=True)
    expected.set_epoch(3)
    assert [batch.tolist() for batch in batches] == list(expected)


def test_a_worker_survives_the_signals_that_stop_a_run():
    loader = LazyDataLoader(ProcessIds(), batch_size=2, num_workers=1, prefetch_factor=1, worker_init_fn=ignore_signals)
    batches = iter(loader)
    worker = int(next(batches)[0])
    assert worker != os.getpid()
    for number in (signal.SIGTERM, signal.SIGINT, signal.SIGUSR1, signal.SIGUSR2):
        os.kill(worker, number)
    assert [batch.tolist() for batch in batches] == [[worker, worker]] * 5


def test_errors():
    with pytest.raises(UserError, match="fewer than one batch of 8"):
        ResumableBatchSampler(7, 8, train=True)
    with pytest.raises(UserError, match="The split has 1 images, fewer than the 2 processes"):
        ResumableBatchSampler(1, 8, train=False, world_size=2)
    with pytest.raises(UserError, match="batch_size=0"):
        ResumableBatchSampler(7, 0, train=False)
