"""The order in which the images of a split are read."""

import signal
from collections.abc import Callable, Iterator, Sequence
from typing import Any

import torch
from torch import Tensor
from torch.utils.data import DataLoader, Sampler

from lambdanets.errors import UserError


class ResumableBatchSampler(Sampler[list[int]]):
    """Batches of indices for one of several processes; starts within an epoch if a run resumes there.

    In training, each epoch is a new permutation, a function of seed and epoch only. A global batch is the next
    `batch_size · world_size` indices of it, whatever the number of processes; the incomplete last one is dropped.
    In evaluation, each process reads its part of the split exactly once, in as many batches as every other process:
    metrics over all processes are those over the split, and no image is repeated.

    Args:
        size: number of images in the split.
        batch_size: images per batch and process.
        train: shuffle, and drop the incomplete last batch.
        seed: seed of the permutations.
        rank: index of this process.
        world_size: number of processes.
        groups: in training, the group of each image. A global batch has images of one group only, except for the
            remaining ones at the end of an epoch.
        count_finished: in training, called at the start of an epoch; returns how many of its batches are done.

    Raises:
        UserError: the batch size is below 1, or the split has too few images for one batch or for the processes.
    """

    def __init__(
        self,
        size: int,
        batch_size: int,
        *,
        train: bool,
        seed: int = 0,
        rank: int = 0,
        world_size: int = 1,
        groups: Sequence[int] | None = None,
        count_finished: Callable[[], int] = lambda: 0,
    ) -> None:
        if batch_size < 1:
            raise UserError(f"batch_size={batch_size} must be at least 1.")
        if size < world_size:
            raise UserError(
                f"The split has {size} images, fewer than the {world_size} processes that read it: use fewer devices "
                "or add images."
            )
        if train and size < batch_size * world_size:
            raise UserError(
                f"The training split has {size} images, fewer than one batch of {batch_size} for each of {world_size} "
                f"processes: set recipe.batch_size to {size // world_size} or less."
            )
        self.size = size
        self.batch_size = batch_size
        self.train = train
        self.seed = seed
        self.rank = rank
        self.world_size = world_size
        self.groups = groups
        self.count_finished = count_finished
        self.epoch = 0

    @property
    def sampler(self) -> "ResumableBatchSampler":
        """The sampler itself: Lightning calls `set_epoch` of a batch sampler's `sampler`."""
        return self

    def set_epoch(self, epoch: int) -> None:
        self.epoch = epoch

    def __len__(self) -> int:
        if self.train:
            return self.size // (self.batch_size * self.world_size)
        largest_part = -(-self.size // self.world_size)
        return -(-largest_part // self.batch_size)

    def __iter__(self) -> Iterator[list[int]]:
        if self.train:
            generator = torch.Generator().manual_seed(derive_seed(self.seed, self.epoch))
            order = torch.randperm(self.size, generator=generator)
            if self.groups is not None:
                order = grouped_by(order, self.groups, self.batch_size * self.world_size)
            order = order[: len(self) * self.batch_size * self.world_size]
        else:
            order = torch.arange(self.size)
        batches = order[self.rank :: self.world_size].tensor_split(len(self))
        yield from (batch.tolist() for batch in batches[self.count_finished() if self.train else 0 :])


def grouped_by(order: Tensor, groups: Sequence[int], batch_size: int) -> Tensor:
    """Reorder indices so that each full batch has one group only; the indices that remain come last."""
    full: list[int] = []
    incomplete: dict[int, list[int]] = {}
    for index in order.tolist():
        batch = incomplete.setdefault(groups[index], [])
        batch.append(index)
        if len(batch) == batch_size:
            full += incomplete.pop(groups[index])
    return torch.tensor(full + [index for batch in incomplete.values() for index in batch])


class SeededBatches(Sampler[list[tuple[int, int]]]):
    """Batches of (index, seed); the seed is a function of the run's seed, the epoch and the index."""

    def __init__(self, batches: ResumableBatchSampler) -> None:
        self.sampler = batches  # the name by which Lightning finds the sampler whose set_epoch it calls

    def __len__(self) -> int:
        return len(self.sampler)

    def __iter__(self) -> Iterator[list[tuple[int, int]]]:
        batches = self.sampler
        for batch in batches:
            yield [(i, derive_seed(batches.seed + 1, (batches.epoch << 32) + i)) for i in batch]


class LazyDataLoader(DataLoader[Any]):
    """A data loader that starts an epoch when its first batch is requested.

    torch's data loader starts it in `iter()`, which Lightning calls before it has set the epoch of a resumed run.
    """

    def __iter__(self) -> Any:
        yield from super().__iter__()


def ignore_signals(worker_id: int) -> None:
    """Ignore stop signals in a worker process; the training process handles them."""
    for number in (signal.SIGTERM, signal.SIGINT, signal.SIGUSR1, signal.SIGUSR2):
        signal.signal(number, signal.SIG_IGN)


def derive_seed(seed: int, count: int) -> int:
    """Return the seed of a generator for the count-th use of a run's seed; neighboring seeds don't overlap."""
    golden = 0x9E3779B97F4A7C15
    return (seed * golden + count) % 2**63


def seed_generators(seed: int) -> None:
    """Seed the CPU's generator and, if CUDA is in use, those of the GPUs.

    torch.manual_seed also formats a stack trace for devices that are not in use, which takes two milliseconds.
    """
    torch.random.default_generator.manual_seed(seed)
    if torch.cuda.is_initialized():
        torch.cuda.manual_seed(seed)
