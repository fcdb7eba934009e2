"""The base class of all image data modules."""

from abc import ABC, abstractmethod
from collections.abc import Sequence
from typing import Any, ClassVar

import pytorch_lightning as pl
import torch
from torch import Tensor
from torch.utils.data import DataLoader, Dataset, TensorDataset
from torchvision.transforms import v2

from lambdanets.data.augmentation import Augmentation
from lambdanets.data.batch_transforms import AsynchronousConstants
from lambdanets.data.batches import (
    LazyDataLoader,
    ResumableBatchSampler,
    SeededBatches,
    derive_seed,
    ignore_signals,
    seed_generators,
)
from lambdanets.data.corrupt import CorruptImages
from lambdanets.data.files import collate
from lambdanets.machine import usable_cores


class ImageData(pl.LightningDataModule, ABC):
    """Splits of images, read as uint8 batches, augmented and normalized on the training device.

    A subclass sets `classes` and defines `load_fit_splits` and `load_test_split`. A split is a `TensorDataset` of
    (images, labels), held in memory and indexed a batch at a time, or a map-style dataset of single images, which
    worker processes stream.

    Batches are (images, labels): (B, channels, *image_size) float32, normalized, and (B,) int64.

    Args:
        channels: channels of the images, 1 or 3.
        image_size: (H, W).
        mean: mean of each channel, with pixels scaled to [0, 1].
        std: standard deviation of each channel, with pixels scaled to [0, 1].
        batch_size: images per batch and process.
        augment: augmentation of the training images.
        seed: seed of the order of training images and of all random draws in a training step.
        split_seed: seed of a validation split that is cut from the training images. It is separate from `seed`, so
            that runs with different seeds share their splits.
        num_workers: worker processes that read image files; at most one per CPU core is started.
        prefetch: batches that each worker loads ahead.
        max_corrupt: fraction of a split's images that may fail to decode; they are skipped and listed in the run's
            corrupt.txt. With 0, the first one ends the run.
    """

    # The task that the batches are for, and the number of classes to assume as long as no data set is at hand.
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
        self.num_workers = min(num_workers, usable_cores())
        self.prefetch = prefetch
        self.corrupt = CorruptImages(max_corrupt)
        self.mean, self.std = torch.tensor(mean), torch.tensor(std)
        # The conversion to float makes a copy, so that the normalization may work in place.
        to_float = v2.ToDtype(torch.float32, scale=True)
        self.to_normalized = v2.Compose([to_float, v2.Normalize(list(mean), list(std), inplace=True)])
        self.classes: list[str] = []
        self.train_set: Dataset[Any] | None = None
        self.val_set: Dataset[Any] | None = None
        self.test_set: Dataset[Any] | None = None

    def __getstate__(self) -> dict[str, Any]:
        """Return what a worker process needs where it isn't forked: neither the trainer nor the splits."""
        return self.__dict__ | {"trainer": None, "train_set": None, "val_set": None, "test_set": None}

    @property
    def has_test(self) -> bool:
        """True if there is a test split."""
        return True

    def count_classes(self) -> int:
        """Return the number of classes as far as it is known before images are read, else 0."""
        return len(self.classes)

    def describe_labels(self) -> dict[str, Any]:
        """Return what a checkpoint stores about the labels."""
        return {"classes": self.classes}

    def restore_classes(self, trained: Sequence[str]) -> None:
        """Take the classes of a run that another rule for classes made from the same data; as a default, none is.

        Args:
            trained: names of the run's classes.
        """

    @abstractmethod
    def load_fit_splits(self) -> tuple[Dataset[Any], Dataset[Any]]:
        """Return the training and the validation split."""

    @abstractmethod
    def load_test_split(self) -> Dataset[Any]:
        """Return the test split."""

    def check_test_split(self) -> None:
        """Check before a training, without decoding images, that the test split can be read after it.

        As a default, nothing is checked.

        Raises:
            UserError: it can't be read.
        """

    def setup(self, stage: str) -> None:
        """Load the splits of a stage, once."""
        if stage == "test":
            self.test_set = self.load_test_split() if self.test_set is None else self.test_set
        elif self.train_set is None:
            self.train_set, self.val_set = self.load_fit_splits()

    def preprocess(self, image: Tensor) -> Tensor:
        """Prepare a photo of any size for evaluation: (C, H, W) uint8 → (channels, *image_size)."""
        steps = [v2.Resize(self.image_size, antialias=True)]
        if self.channels == 1:
            steps.append(v2.Grayscale())
        return v2.Compose(steps)(image)

    def normalize(self, images: Tensor) -> Tensor:
        """Scale pixels to [0, 1] and normalize them: (..., C, H, W) uint8 → float32."""
        with AsynchronousConstants():
            return self.to_normalized(images)

    def denormalize(self, image: Tensor) -> Tensor:
        """Turn a normalized image back into pixels: (C, H, W) float → uint8, on the CPU."""
        image = image.detach().float().cpu() * self.std[:, None, None] + self.mean[:, None, None]
        return (255 * image).round().clamp(0, 255).to(torch.uint8)

    def group_images(self, split: Any) -> list[int] | None:
        """Return the group of each training image, or None; a batch has images of one group only."""
        return None

    def collate(self, items: list[Any]) -> Any:
        """Make a batch of items; None stands for an image that could not be decoded."""
        return collate(items)

    def train_dataloader(self) -> DataLoader[Any]:
        return self.make_loader(self.train_set, train=True)

    def val_dataloader(self) -> DataLoader[Any]:
        return self.make_loader(self.val_set)

    def test_dataloader(self) -> DataLoader[Any]:
        return self.make_loader(self.test_set)

    def make_loader(self, split: Any, *, train: bool = False) -> DataLoader[Any]:
        rank, world_size = (self.trainer.global_rank, self.trainer.world_size) if self.trainer else (0, 1)
        sampler = ResumableBatchSampler(
            len(split),
            self.batch_size,
            train=train,
            seed=self.seed,
            rank=rank,
            world_size=world_size,
            groups=self.group_images(split) if train else None,
            count_finished=self.count_finished_batches,
        )
        if isinstance(split, TensorDataset):
            return LazyDataLoader(split, sampler=sampler, batch_size=None, pin_memory=torch.cuda.is_available())
        return LazyDataLoader(
            split,
            batch_sampler=SeededBatches(sampler) if train else sampler,
            num_workers=self.num_workers,
            pin_memory=torch.cuda.is_available(),
            persistent_workers=self.num_workers > 0,
            prefetch_factor=self.prefetch if self.num_workers else None,
            collate_fn=self.collate,
            worker_init_fn=ignore_signals,
        )

    def count_finished_batches(self) -> int:
        """Return how many batches of this epoch are done; more than 0 if the run resumes within an epoch."""
        return self.trainer.fit_loop.epoch_loop.batch_progress.current.ready if self.trainer else 0

    def on_after_batch_transfer(self, batch: tuple[Tensor, Tensor], dataloader_idx: int) -> tuple[Tensor, Tensor]:
        images, labels = batch
        if self.trainer is None:
            return self.normalize(images), labels
        convert = self.trainer.precision_plugin.convert_input  # to float64 or float16 where the trainer computes in it
        if not self.trainer.training:
            return convert(self.normalize(images)), labels
        self.seed_step(self.trainer)
        images = self.augment.augment_pixels(images, cropped=not isinstance(self.train_set, TensorDataset))
        return self.augment.augment_normalized(convert(self.normalize(images)), labels, num_classes=len(self.classes))

    def seed_step(self, trainer: pl.Trainer) -> None:
        """Make augmentation, dropout and stochastic depth of a step a function of seed, step and process.

        A resumed run then draws the same numbers as an uninterrupted one.
        """
        step = trainer.fit_loop.total_batch_idx + 1
        seed_generators(derive_seed(self.seed, (step << 12) + trainer.global_rank))
