"""Small sets that torchvision downloads and that fit in memory."""

from collections.abc import Iterator
from contextlib import ExitStack, contextmanager, suppress
from pathlib import Path
from typing import Any, ClassVar

import torch
from torch.utils.data import TensorDataset
from torchvision.datasets import VisionDataset

from lambdanets.data.module import ImageData
from lambdanets.data.split import seeded_split
from lambdanets.errors import UserError


class DownloadedImages(ImageData):
    """A torchvision set with an official training and test part; the validation split is cut from the training part.

    Args:
        root: folder of the files; downloaded once, checked against torchvision's checksums.
        val_size: share of the training images, or their number, for validation.
        **options: as `ImageData`.
    """

    SOURCE: ClassVar[type[VisionDataset]]

    def __init__(self, *, root: str, val_size: float | int = 0.1, **options: Any) -> None:
        super().__init__(**options)
        self.root = Path(root)
        self.val_size = val_size

    def prepare_data(self) -> None:
        """Downloads what is missing.

        Raises:
            UserError: the download fails, or the folder can't be written.
        """
        with locked(self.root):  # processes that begin together don't write the same file
            for train in (True, False):
                self.read(train=train, download=True)

    def load_fit_splits(self) -> tuple[TensorDataset, TensorDataset]:
        images, labels = self.tensors(train=True)
        train, val = seeded_split(len(images), self.val_size, self.split_seed)
        return TensorDataset(images[train], labels[train]), TensorDataset(images[val], labels[val])

    def load_test_split(self) -> TensorDataset:
        return TensorDataset(*self.tensors(train=False))

    def tensors(self, *, train: bool) -> tuple[torch.Tensor, torch.Tensor]:
        """(N, channels, H, W) uint8 and (N,) int64."""
        source = self.read(train=train, download=False)
        self.classes = list(source.classes)
        images = torch.as_tensor(source.data)
        images = images.unsqueeze(1) if images.ndim == 3 else images.permute(0, 3, 1, 2).contiguous()
        return images, torch.as_tensor(source.targets)

    def read(self, *, train: bool, download: bool) -> Any:
        try:
            return self.SOURCE(self.root, train=train, download=download)
        except (OSError, RuntimeError) as error:
            name = self.SOURCE.__name__
            raise UserError(
                f"{name} could not be brought to '{self.root}' ({' '.join(str(error).split())}): connect to the "
                "network once, or put torchvision's files there, or name another folder with data.root."
            ) from error


@contextmanager
def locked(folder: Path) -> Iterator[None]:
    """One process of this machine at a time; without effect where a folder can't be written or locked."""
    with ExitStack() as stack:
        with suppress(OSError, ImportError):
            import fcntl

            folder.mkdir(parents=True, exist_ok=True)
            fcntl.flock(stack.enter_context((folder / ".lock").open("w")), fcntl.LOCK_EX)
        yield
