"""Small data sets that torchvision downloads, held in memory."""

from pathlib import Path
from typing import Any, ClassVar

import torch
from torch.utils.data import TensorDataset
from torchvision.datasets import VisionDataset

from lambdanets.data.module import ImageData
from lambdanets.data.split import split_indices
from lambdanets.errors import UserError
from lambdanets.locks import exclusive_lock


class DownloadedImages(ImageData):
    """A torchvision data set with official training and test parts; validation images are cut from the training part.

    Args:
        root: folder of the files. They are downloaded once and checked against torchvision's checksums.
        val_size: size of the validation split, as a fraction of the training images (below 1) or as a number of images.
        **options: options of `ImageData`.
    """

    SOURCE: ClassVar[type[VisionDataset]]

    def __init__(self, *, root: str, val_size: float | int = 0.1, **options: Any) -> None:
        super().__init__(**options)
        self.root = Path(root)
        self.val_size = val_size

    def prepare_data(self) -> None:
        """Download missing files; one process of the machine at a time.

        Raises:
            UserError: the download fails, or the folder can't be written.
        """
        with exclusive_lock(self.root / ".lock"):  # a folder that can't be written or locked may be complete already
            for train in (True, False):
                self.open_dataset(train=train, download=True)

    def load_fit_splits(self) -> tuple[TensorDataset, TensorDataset]:
        images, labels = self.load_tensors(train=True)
        train, val = split_indices(len(images), self.val_size, self.split_seed)
        return TensorDataset(images[train], labels[train]), TensorDataset(images[val], labels[val])

    def load_test_split(self) -> TensorDataset:
        return TensorDataset(*self.load_tensors(train=False))

    def load_tensors(self, *, train: bool) -> tuple[torch.Tensor, torch.Tensor]:
        """Return images (N, channels, H, W) uint8 and labels (N,) int64."""
        dataset = self.open_dataset(train=train, download=False)
        self.classes = list(dataset.classes)
        images = torch.as_tensor(dataset.data)
        images = images.unsqueeze(1) if images.ndim == 3 else images.permute(0, 3, 1, 2).contiguous()
        return images, torch.as_tensor(dataset.targets)

    def open_dataset(self, *, train: bool, download: bool) -> Any:
        """Return torchvision's data set."""
        try:
            return self.SOURCE(self.root, train=train, download=download)
        except (OSError, RuntimeError) as error:
            name = self.SOURCE.__name__
            raise UserError(
                f"{name} could not be downloaded to '{self.root}' ({' '.join(str(error).split())}): connect to the "
                "network once, copy torchvision's files there, or set data.root to a folder that has them."
            ) from error
