"""Images in files: reading, decoding, streaming, and holding a whole small set in memory."""

import io
import math
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
from PIL import Image
from torch import Tensor
from torch.utils.data import DataLoader, Dataset, TensorDataset, default_collate
from torchvision.io import ImageReadMode, decode_jpeg
from torchvision.transforms.v2 import functional as F

from lambdanets.data.batches import seed_generators
from lambdanets.data.corrupt import Corrupt
from lambdanets.errors import UserError

Sample = tuple[str, int]
EXTENSIONS = (".jpg", ".jpeg", ".png", ".bmp", ".webp", ".tif", ".tiff", ".ppm", ".pgm", ".gif")


class Photo:
    """An encoded image of which only the header has been read.

    Args:
        raw: bytes of the file.
        name: what messages call it.

    Raises:
        UserError: it is not an image.
    """

    def __init__(self, raw: bytes, name: str) -> None:
        self.raw = raw
        self.name = name
        try:
            self.image = Image.open(io.BytesIO(raw))
        except (OSError, ValueError, SyntaxError, Image.DecompressionBombError) as error:
            raise self.unreadable(error) from error
        width, height = self.image.size
        self.size = height, width

    def decode(self, least: tuple[int, int] | None = None) -> Tensor:
        """The image as RGB: (3, H, W) uint8.

        Args:
            least: (H, W) that suffices. A JPEG of at least twice that is decoded at a half, a quarter or an eighth of
                its size, which takes part of the time; None decodes at full size.

        Raises:
            UserError: it can't be decoded to its end.
        """
        try:
            if self.image.format == "JPEG" and self.image.mode in ("RGB", "L"):
                if least is None or math.floor(min(s / wanted for s, wanted in zip(self.size, least, strict=True))) < 2:
                    # torchvision's decoder saves the ways through PIL's image.
                    return decode_jpeg(torch.frombuffer(bytearray(self.raw), dtype=torch.uint8), ImageReadMode.RGB)
                self.image.draft("RGB", (least[1], least[0]))
            return F.pil_to_tensor(self.image.convert("RGB"))
        except (OSError, ValueError, SyntaxError, RuntimeError, Image.DecompressionBombError) as error:
            raise self.unreadable(error) from error

    def unreadable(self, error: Exception) -> UserError:
        reason = "it is not an image" if isinstance(error, Image.UnidentifiedImageError) else str(error).splitlines()[0]
        return UserError(f"The image '{self.name}' can't be decoded ({reason}): replace or remove it.")


def read_file(path: str | Path) -> bytes:
    """Raises UserError: the file is missing or can't be read."""
    try:
        return Path(path).read_bytes()
    except FileNotFoundError:
        raise UserError(f"There is no image '{path}'; check the path.") from None
    except OSError as error:
        raise UserError(
            f"The image '{path}' can't be read ({error.strerror}): check the disk and the rights."
        ) from error


def read_image(path: str | Path) -> Tensor:
    """Decodes an image file as RGB: (3, H, W) uint8.

    Raises:
        UserError: the file is missing or is not an image that can be decoded to its end.
    """
    return Photo(read_file(path), str(path)).decode()


class ImageFiles(Dataset[Any]):
    """Decodes and transforms an image at each access: (image uint8, label).

    Args:
        samples: (path, label) pairs.
        transform: from a photo to (3, H, W) uint8.
        corrupt: what to do with images that can't be decoded: with a training item, a pair of index and seed, the next
            image takes its place, else there is None in its place; without it, the first one is an error.
    """

    def __init__(
        self, samples: list[Sample], transform: Callable[[Photo], Tensor], corrupt: Corrupt | None = None
    ) -> None:
        self.samples = samples
        self.transform = transform
        self.corrupt = corrupt

    def __len__(self) -> int:
        return len(self.samples)

    def raw(self, index: int) -> bytes:
        return read_file(self.samples[index][0])

    def example(self, index: int, photo: Photo) -> Any:
        """What the item of that index is, given its image."""
        return self.transform(photo), self.samples[index][1]

    def __getitem__(self, item: int | tuple[int, int]) -> Any:
        index, seed = item if isinstance(item, tuple) else (item, None)
        while True:
            path = self.samples[index][0]
            try:
                photo = Photo(self.raw(index), path)
                if seed is not None:
                    # What is drawn for an image is a function of seed, epoch and image, whichever worker draws it.
                    seed_generators(seed)
                return self.example(index, photo)
            except UserError as error:
                if self.corrupt is None:
                    raise
                self.corrupt.note(path, error, self.samples)
            if seed is None:
                return None
            index = (index + 1) % len(self)


class DecodeThen:
    """A photo's transform by one of its decoded tensor, (3, h, w) uint8 → (3, H, W)."""

    def __init__(self, transform: Callable[[Tensor], Tensor]) -> None:
        self.transform = transform

    def __call__(self, photo: Photo) -> Tensor:
        return self.transform(photo.decode())


def collate(items: list[Any]) -> Any:
    """A batch of the images that could be decoded, which may be none."""
    found = [item for item in items if item is not None]
    return default_collate(found) if found else (torch.empty(0, 3, 1, 1, dtype=torch.uint8), torch.empty(0).long())


def read_all(dataset: ImageFiles, *, num_workers: int = 0) -> TensorDataset:
    """Decodes and transforms every image once, by that many processes; to be held in memory."""
    batches = DataLoader(dataset, batch_size=256, num_workers=num_workers, collate_fn=collate)
    images, labels = zip(*(batch for batch in batches if len(batch[1])), strict=True)
    return TensorDataset(torch.cat(images), torch.cat(labels))
