"""Images in files: decoding, streaming, and reading a whole small set into memory."""

from collections.abc import Callable
from pathlib import Path

import torch
from PIL import Image
from torch import Tensor
from torch.utils.data import DataLoader, Dataset, TensorDataset
from torchvision.transforms.v2 import functional as F

from lambdanets.errors import UserError

Sample = tuple[str, int]
EXTENSIONS = (".jpg", ".jpeg", ".png", ".bmp", ".webp", ".tif", ".tiff", ".ppm", ".pgm", ".gif")


def read_image(path: str | Path) -> Tensor:
    """Decodes an image file as RGB: (3, H, W) uint8.

    Raises:
        UserError: the file is missing or is not an image that can be decoded to its end.
    """
    try:
        with Image.open(path) as image:
            return F.pil_to_tensor(image.convert("RGB"))
    except FileNotFoundError:
        raise UserError(f"There is no image '{path}'; check the path.") from None
    except (OSError, ValueError, SyntaxError, Image.DecompressionBombError) as error:
        reason = "it is not an image" if isinstance(error, Image.UnidentifiedImageError) else str(error)
        raise UserError(f"The image '{path}' can't be decoded ({reason}): replace or remove it.") from error


class ImageFiles(Dataset[tuple[Tensor, int]]):
    """Decodes and transforms an image at each access: (image uint8, label).

    Args:
        samples: (path, label) pairs.
        transform: (3, h, w) uint8 → (3, H, W) uint8.
    """

    def __init__(self, samples: list[Sample], transform: Callable[[Tensor], Tensor]) -> None:
        self.samples = samples
        self.transform = transform

    def __len__(self) -> int:
        return len(self.samples)

    def __getitem__(self, index: int) -> tuple[Tensor, int]:
        path, label = self.samples[index]
        return self.transform(read_image(path)), label


def read_all(samples: list[Sample], transform: Callable[[Tensor], Tensor], *, num_workers: int = 0) -> TensorDataset:
    """Decodes and transforms every image once, by that many processes; to be held in memory."""
    batches = DataLoader(ImageFiles(samples, transform), batch_size=256, num_workers=num_workers)
    images, labels = zip(*batches, strict=True)
    return TensorDataset(torch.cat(images), torch.cat(labels))
