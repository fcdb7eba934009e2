"""What all image data modules share."""

import os
from abc import ABC, abstractmethod
from collections.abc import Sequence
from typing import Any, ClassVar

import pytorch_lightning as pl
import torch
from torch import Tensor
from torch.utils.data import DataLoader, Dataset, TensorDataset
from torchvision.transforms import v2

from lambdanets.data.augmentation import Augmentation
from lambdanets.data.batches import Batches, LateLoader, Seeded, leave_signals, mixed_seed, seed_generators
from lambdanets.data.corrupt import Corrupt
from lambdanets.data.files import collate


class ImageData(pl.LightningDataModule, ABC):
    """Splits of images, read as uint8 batches, augmented and normalized on the device that trains.

    A data module sets `classes` and defines `load_fit_splits` and `load_test_split`. A split is a `TensorDataset` of
    (images, labels) in memory, whose batches are gathered in one piece, or a map-style dataset of single images, which
    workers stream.

    Batches are (images, labels): (B, channels, *image_size) float32 normalized, and (B,) int64.

    Args:
        channels: channels of the images, 1 or 3.
        image_size: (H, W).
        mean: per channel, on the scale from 0 to 1.
        std: per channel, on the same scale.
        batch_size: images a batch and process.
        augment: what happens to training images.
        seed: of the order of training images and of all that is random in a training step.
        split_seed: of a validation split that is cut from the training images; apart from `seed`, so that runs with
            different seeds share their splits.
        num_workers: processes that read images from files, at most one a CPU core.
        prefetch: batches that each of them keeps ready.
        max_corrupt: share of a split's images that may be impossible to decode; they are left out and named in the
            run's corrupt.txt. With 0, the first one ends the run.
    """

    # The task that its batches are for, and how many classes such a set has as a rule.
    TASK: ClassVar[str] = "classification"
    USUAL_CLASSES: ClassVar[int] = 1000

    def __init__(
        self,
        *,
        channels: int,
        image_size: tuple[int, int],
        mean: Sequence[float],
        std: Sequence[float],
        batch_size: int = 64,
        augment: Augmentation | None = None,
        seed: int = 0,
        split_seed: int = 0,
        num_workers: int = 0,
        prefetch: int = 4,
        max_corrupt: float = 0.0,
    ) -> None:
        super().__init__()
        self.channels = channels
        self.image_size = image_size
        self.batch_size = batch_size
        self.augment = augment or Augmentation()
        self.seed = seed
        self.split_seed = split_seed
        self.num_workers = min(num_workers, os.cpu_count() or 1)
        self.prefetch = prefetch
        self.corrupt = Corrupt(max_corrupt)
        # From uint8 to floats is a copy; what follows works in it.
        scaled = v2.ToDtype(torch.float32, scale=True)
        self.mean, self.std = torch.tensor(mean), torch.tensor(std)
        self.normalize = v2.Compose([scaled, v2.Normalize(list(mean), list(std), inplace=True)])
        self.classes: list[str] = []
        self.train_set: Dataset[Any] | None = None
        self.val_set: Dataset[Any] | None = None
        self.test_set: Dataset[Any] | None = None

    @property
    def has_test(self) -> bool:
        """Is there a test split to read?"""
        return True

    def count_classes(self) -> int:
        """The number of classes as far as it is known before any image is read, else 0."""
        return len(self.classes)

    def describe_labels(self) -> dict[str, Any]:
        """What a checkpoint says of its labels."""
        return {"classes": self.classes}

    @abstractmethod
    def load_fit_splits(self) -> tuple[Dataset[Any], Dataset[Any]]:
        """The training and the validation split."""

    @abstractmethod
    def load_test_split(self) -> Dataset[Any]:
        """The test split."""

    def setup(self, stage: str) -> None:
        """Reads the splits of a stage, once."""
        if stage == "test":
            self.test_set = self.load_test_split() if self.test_set is None else self.test_set
        elif self.train_set is None:
            self.train_set, self.val_set = self.load_fit_splits()

    def preprocess(self, image: Tensor) -> Tensor:
        """Brings a photo of any size to what evaluation images look like: (C, H, W) uint8 → (channels, *image_size)."""
        steps = [v2.Resize(self.image_size, antialias=True)]
        if self.channels == 1:
            steps.append(v2.Grayscale())
        return v2.Compose(steps)(image)

    def denormalize(self, image: Tensor) -> Tensor:
        """A normalized image to look at: (C, H, W) float → uint8, on the CPU."""
        image = image.detach().float().cpu() * self.std[:, None, None] + self.mean[:, None, None]
        return (255 * image).round().clamp(0, 255).to(torch.uint8)

    def groups(self, split: Any) -> list[int] | None:
        """A number for each image of a training split: images with different numbers aren't put into one batch."""
        return None

    def collate(self, items: list[Any]) -> Any:
        """A batch of single images' items, of which those that couldn't be decoded are None."""
        return collate(items)

    def train_dataloader(self) -> DataLoader[Any]:
        return self.loader(self.train_set, train=True)

    def val_dataloader(self) -> DataLoader[Any]:
        return self.loader(self.val_set)

    def test_dataloader(self) -> DataLoader[Any]:
        return self.loader(self.test_set)

    def loader(self, split: Any, *, train: bool = False) -> DataLoader[Any]:
        rank, world = (self.trainer.global_rank, self.trainer.world_size) if self.trainer else (0, 1)
        batches = Batches(
            len(split),
            self.batch_size,
            train=train,
            seed=self.seed,
            rank=rank,
            world=world,
            groups=self.groups(split) if train else None,
            done=self.batches_done,
        )
        if isinstance(split, TensorDataset):
            return LateLoader(split, sampler=batches, batch_size=None)
        return LateLoader(
            split,
            batch_sampler=Seeded(batches) if train else batches,
            num_workers=self.num_workers,
            pin_memory=torch.cuda.is_available(),
            persistent_workers=self.num_workers > 0,
            prefetch_factor=self.prefetch if self.num_workers else None,
            collate_fn=self.collate,
            worker_init_fn=leave_signals,
        )

    def batches_done(self) -> int:
        """Batches of the epoch that the run has behind it: some, where it goes on from the middle of an epoch."""
        return self.trainer.fit_loop.epoch_loop.batch_progress.current.ready if self.trainer else 0

    def on_after_batch_transfer(self, batch: tuple[Tensor, Tensor], dataloader_idx: int) -> tuple[Tensor, Tensor]:
        images, labels = batch
        if self.trainer is None:
            return self.normalize(images), labels
        convert = self.trainer.precision_plugin.convert_input  # to 64, or 16, bits where the trainer computes in them
        if not self.trainer.training:
            return convert(self.normalize(images)), labels
        self.seed_step(self.trainer)
        images = self.augment.augment_pixels(images, cropped=not isinstance(self.train_set, TensorDataset))
        return self.augment.augment_normalized(convert(self.normalize(images)), labels, classes=len(self.classes))

    def seed_step(self, trainer: pl.Trainer) -> None:
        """Makes augmentation, dropout and stochastic depth of a step a function of seed, step and process.

        A run that goes on from a checkpoint then draws what the run that was never stopped draws.
        """
        step = trainer.fit_loop.total_batch_idx + 1
        seed_generators(mixed_seed(self.seed, (step << 12) + trainer.global_rank))
