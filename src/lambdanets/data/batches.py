"""The order in which a split's images are read."""

import signal
from collections.abc import Callable, Iterator, Sequence
from typing import Any

import torch
from torch import Tensor
from torch.utils.data import DataLoader, Sampler

from lambdanets.errors import UserError


class Batches(Sampler[list[int]]):
    """Lists of indices, one a batch, for one of several processes.

    In training, each epoch is a new permutation, a function of seed and epoch only; a batch of the run is the next
    `batch_size · world` indices of it, whatever the number of processes, and the incomplete last one is left out.
    In evaluation, each process reads its own share of the split exactly once, in as many batches as every other
    process; so metrics over all processes are those over the split, without a repeated image.

    Args:
        size: number of images in the split.
        batch_size: images a batch and process.
        train: shuffle, and leave out the incomplete last batch.
        seed: of the permutations.
        rank: this process.
        world: number of processes.
        groups: in training, a number for each image; a batch of the run has images of one number only, but for the
            last ones of an epoch, which are those left over.
        done: in training, says when an epoch begins how many of its batches the run has behind it.

    Raises:
        UserError: the split is empty or, in training, smaller than one batch.
    """

    def __init__(
        self,
        size: int,
        batch_size: int,
        *,
        train: bool,
        seed: int = 0,
        rank: int = 0,
        world: int = 1,
        groups: Sequence[int] | None = None,
        done: Callable[[], int] = lambda: 0,
    ) -> None:
        if batch_size < 1:
            raise UserError(f"batch_size={batch_size} must be at least 1.")
        if size < world:
            raise UserError(f"A split of {size} images can't be read by {world} processes; use fewer or add images.")
        if train and size < batch_size * world:
            raise UserError(
                f"The training split has {size} images, fewer than one batch of {batch_size} for each of {world} "
                f"processes: set recipe.batch_size to {size // world} or less."
            )
        self.size = size
        self.batch_size = batch_size
        self.train = train
        self.seed = seed
        self.rank = rank
        self.world = world
        self.groups = groups
        self.done = done
        self.epoch = 0

    @property
    def sampler(self) -> "Batches":
        """Itself: where Lightning looks for what to tell the epoch."""
        return self

    def set_epoch(self, epoch: int) -> None:
        self.epoch = epoch

    def __len__(self) -> int:
        if self.train:
            return self.size // (self.batch_size * self.world)
        largest_share = -(-self.size // self.world)
        return -(-largest_share // self.batch_size)

    def __iter__(self) -> Iterator[list[int]]:
        if self.train:
            generator = torch.Generator().manual_seed(mixed_seed(self.seed, self.epoch))
            order = torch.randperm(self.size, generator=generator)
            if self.groups is not None:
                order = gathered(order, self.groups, self.batch_size * self.world)
            order = order[: len(self) * self.batch_size * self.world]
        else:
            order = torch.arange(self.size)
        share = order[self.rank :: self.world]
        batches = share.tensor_split(len(self))
        yield from (batch.tolist() for batch in batches[self.done() if self.train else 0 :])


def gathered(order: Tensor, groups: Sequence[int], size: int) -> Tensor:
    """Indices in another order: in batches of that size with one group each, then those left over."""
    full: list[int] = []
    waiting: dict[int, list[int]] = {}
    for index in order.tolist():
        batch = waiting.setdefault(groups[index], [])
        batch.append(index)
        if len(batch) == size:
            full += waiting.pop(groups[index])
    return torch.tensor(full + [index for batch in waiting.values() for index in batch])


class Seeded(Sampler[list[tuple[int, int]]]):
    """The batches' indices, each with a seed that is a function of the run's seed, the epoch and the index."""

    def __init__(self, batches: Batches) -> None:
        self.sampler = batches  # where Lightning looks for what to tell the epoch

    def __len__(self) -> int:
        return len(self.sampler)

    def __iter__(self) -> Iterator[list[tuple[int, int]]]:
        batches = self.sampler
        for batch in batches:
            yield [(i, mixed_seed(batches.seed + 1, (batches.epoch << 32) + i)) for i in batch]


class LateLoader(DataLoader[Any]):
    """A loader that begins an epoch when its first batch is asked for.

    torch's begins when it is told to iterate; Lightning does that before it knows the epoch of a run that goes on.
    """

    def __iter__(self) -> Any:
        yield from super().__iter__()


def leave_signals(worker: int) -> None:
    """Leaves a request to stop, which reaches all processes of a job, to the one that trains."""
    for number in (signal.SIGTERM, signal.SIGINT, signal.SIGUSR1, signal.SIGUSR2):
        signal.signal(number, signal.SIG_IGN)


def mixed_seed(seed: int, count: int) -> int:
    """A generator's seed for the count-th use of a run's seed; neighbouring seeds and counts don't meet."""
    golden = 0x9E3779B97F4A7C15
    return (seed * golden + count) % 2**63


def seed_generators(seed: int) -> None:
    """Seeds the CPU's generator and, where GPUs are in use, theirs.

    torch.manual_seed also prepares for devices that are never used, by a stack trace each time: two milliseconds.
    """
    torch.random.default_generator.manual_seed(seed)
    if torch.cuda.is_initialized():
        torch.cuda.manual_seed(seed)
