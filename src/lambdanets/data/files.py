"""Image files: reading and decoding them, streaming a split, and loading a small split into memory."""

import io
import math
import warnings
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
from PIL import Image
from torch import Tensor
from torch.utils.data import DataLoader, Dataset, TensorDataset, default_collate
from torchvision.io import ImageReadMode, decode_jpeg

from lambdanets.data.batches import seed_generators
from lambdanets.data.corrupt import CorruptImages
from lambdanets.data.pixels import UnsupportedPixelsError, read_orientation, scale_color_key, to_rgb, turn_upright
from lambdanets.errors import UserError, printable

Sample = tuple[str, int]
# Pillow refuses larger images, as they may be made to fill the memory, and warns from half of it on.
MAX_PIXELS = 2 * (Image.MAX_IMAGE_PIXELS or 0)
warnings.filterwarnings("ignore", category=Image.DecompressionBombWarning)


class Photo:
    """An encoded image; only its header is read.

    Args:
        raw: content of the file.
        name: name of the image in messages.

    Attributes:
        size: (H, W) of the upright image.
        orientation: EXIF orientation by which the stored pixels are turned, 1 for upright ones.

    Raises:
        UserError: the content is not an image.
    """

    def __init__(self, raw: bytes, name: str) -> None:
        self.raw = raw
        self.name = name
        try:
            self.image = Image.open(io.BytesIO(raw))
        except Exception as error:  # Pillow raises many types for damaged files
            raise self.decode_error(error) from error
        if self.image.format == "PNG":
            scale_color_key(self.image)
        self.orientation = read_orientation(self.image)
        width, height = self.image.size
        self.size = (height, width) if self.orientation < 5 else (width, height)

    @property
    def is_jpeg(self) -> bool:
        """True for a JPEG in color or gray, which torchvision decodes."""
        return self.image.format == "JPEG" and self.image.mode in ("RGB", "L")

    def decode(self, min_size: tuple[int, int] | None = None) -> Tensor:
        """Decode the image as RGB, upright: (3, H, W) uint8. `to_rgb` says how other kinds of pixels become RGB.

        Args:
            min_size: smallest sufficient (H, W), or None for the full size. A JPEG at least twice as large is decoded
                at 1/2, 1/4 or 1/8 of its size, which is faster.

        Raises:
            UserError: the image is damaged, or has no defined colors.
        """
        try:
            if self.is_jpeg and (
                min_size is None or math.floor(min(s / m for s, m in zip(self.size, min_size, strict=True))) < 2
            ):
                pixels = self.decode_jpeg()
            else:
                if self.is_jpeg and min_size is not None:
                    height, width = min_size if self.orientation < 5 else min_size[::-1]
                    self.image.draft("RGB", (width, height))
                pixels = to_rgb(self.image)
        except Exception as error:  # Pillow raises many types for damaged files
            raise self.decode_error(error) from error
        return turn_upright(pixels, self.orientation)

    def decode_jpeg(self) -> Tensor:
        """Decode a JPEG at its full size, not turned: (3, H, W) uint8."""
        try:
            # torchvision decodes straight into a tensor, which is faster than by way of a PIL image.
            return decode_jpeg(torch.frombuffer(bytearray(self.raw), dtype=torch.uint8), ImageReadMode.RGB)
        except RuntimeError:
            return to_rgb(self.image)  # reads some files that torchvision doesn't, and names the reason if it can't

    def decode_error(self, error: Exception) -> UserError:
        """Return the error to raise for an exception of a decoder."""
        return UserError(
            f"The image '{printable(self.name)}' can't be decoded ({self.explain(error)}): replace or remove it."
        )

    def explain(self, error: Exception) -> str:
        """Return the reason for an exception of a decoder, in plain words."""
        lines = str(error).splitlines()
        match error:
            case _ if not self.raw:
                return "the file is empty"
            case Image.UnidentifiedImageError():
                return "it is not an image of a known format, or it is truncated"
            case Image.DecompressionBombError() | Image.DecompressionBombWarning():
                return f"it has more than {MAX_PIXELS / 1e6:.0f} million pixels"
            case UnsupportedPixelsError():
                return lines[0]
            case _ if lines and "truncated" in lines[0].lower():
                return "the file is truncated"
        return f"the file is damaged: {lines[0]}" if lines else "the file is damaged"


def read_file(path: str | Path) -> bytes:
    """Read an image file.

    Raises:
        UserError: the file is missing or can't be read.
    """
    name = printable(str(path))
    try:
        return Path(path).read_bytes()
    except FileNotFoundError:
        reason = "it is a link to nothing" if Path(path).is_symlink() else "check the path"
        raise UserError(f"There is no image '{name}': {reason}.") from None
    except OSError as error:
        raise UserError(
            f"The image '{name}' can't be read ({error.strerror}): check the disk and the file's permissions."
        ) from error


def read_image(path: str | Path) -> Tensor:
    """Read and decode an image file as RGB, upright: (3, H, W) uint8.

    Raises:
        UserError: the file is missing, is not an image, or is damaged.
    """
    return Photo(read_file(path), str(path)).decode()


class ImageFiles(Dataset[Any]):
    """Images that are decoded and transformed at each access: (image uint8, label).

    An item is requested by its index or, in training, by a pair of index and seed.

    Args:
        samples: (path, label) pairs.
        transform: function of a photo, as a rule to (3, H, W) uint8.
        corrupt: list of the images that can't be decoded. In training, the next image takes the place of such an
            image; otherwise its item is None. Without a list, the first one raises an error.
    """

    def __init__(
        self, samples: list[Sample], transform: Callable[[Photo], Any], corrupt: CorruptImages | None = None
    ) -> None:
        self.samples = samples
        self.transform = transform
        self.corrupt = corrupt

    def __len__(self) -> int:
        return len(self.samples)

    def read_raw(self, index: int) -> bytes:
        """Return the encoded image."""
        return read_file(self.samples[index][0])

    def make_item(self, index: int, photo: Photo) -> Any:
        """Return the item of a photo."""
        return self.transform(photo), self.samples[index][1]

    def __getitem__(self, item: int | tuple[int, int]) -> Any:
        index, seed = item if isinstance(item, tuple) else (item, None)
        for _ in range(len(self)):
            path = self.samples[index][0]
            try:
                photo = Photo(self.read_raw(index), path)
                if seed is not None:
                    # Random draws are a function of run seed, epoch and image, whichever worker makes them.
                    seed_generators(seed)
                return self.make_item(index, photo)
            except UserError as error:
                if self.corrupt is None:
                    raise
                self.corrupt.add(path, error, self.samples)
            if seed is None:
                return None
            index = (index + 1) % len(self)
        raise UserError(f"None of the {len(self)} images can be decoded: check data.root.")


class DecodeThen:
    """A transform of photos: decode at full size, then apply a transform of tensors, (3, h, w) uint8 → (3, H, W)."""

    def __init__(self, transform: Callable[[Tensor], Tensor]) -> None:
        self.transform = transform

    def __call__(self, photo: Photo) -> Tensor:
        return self.transform(photo.decode())


def collate(items: list[Any]) -> Any:
    """Make a batch of the items that are not None; it may be empty."""
    decoded = [item for item in items if item is not None]
    return default_collate(decoded) if decoded else (torch.empty(0, 3, 1, 1, dtype=torch.uint8), torch.empty(0).long())


def load_into_memory(dataset: ImageFiles, *, num_workers: int = 0) -> TensorDataset:
    """Decode and transform each image once, by that many worker processes.

    Raises:
        UserError: no image can be decoded, or more than the list of corrupt images allows.
    """
    images, labels, count = torch.empty(0), torch.empty(len(dataset), dtype=torch.int64), 0
    for batch, batch_labels in DataLoader(dataset, batch_size=256, num_workers=num_workers, collate_fn=collate):
        if not len(batch):
            continue
        if not count:
            images = batch.new_empty(len(dataset), *batch.shape[1:])
        # Copied, since a batch of a worker process stays in shared memory, with open files, as long as it is kept.
        images[count : count + len(batch)] = batch
        labels[count : count + len(batch)] = batch_labels
        count += len(batch)
    if not count:
        raise UserError(f"None of the {len(dataset)} images can be decoded: check data.root.")
    return TensorDataset(images[:count], labels[:count])
