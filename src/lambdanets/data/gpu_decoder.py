"""JPEGs that a GPU decodes, a batch at a time: workers read files only."""

from collections.abc import Callable, Sequence
from math import prod
from typing import NamedTuple

import torch
from torch import Tensor
from torchvision.io import ImageReadMode, decode_jpeg

from lambdanets.data.files import Photo
from lambdanets.data.pixels import turn_upright
from lambdanets.data.random_crop import Box, RandomCrop
from lambdanets.errors import UserError


class EncodedPhoto(NamedTuple):
    """A photo for the decoder.

    Args:
        content: the bytes of a JPEG, (N,) uint8; or of a file in another format the pixels, (3, H, W) uint8.
        name: name of the image in messages.
        box: random part of the upright photo that the training image shows, or None in evaluation.
        orientation: EXIF orientation by which the decoded content has to be turned, 1 for an upright one.
    """

    content: Tensor
    name: str
    box: Box | None
    orientation: int


class EncodedBatch(NamedTuple):
    """The photos of a batch, with their contents in one tensor: worker processes can send few tensors at a time.

    Args:
        content: the flat contents, one after the other.
        shapes: shape of each content.
        names: name of each image.
        boxes: part of each photo, or None.
        orientations: EXIF orientation of each content.
    """

    content: Tensor
    shapes: list[tuple[int, ...]]
    names: list[str]
    boxes: list[Box | None]
    orientations: list[int]

    @classmethod
    def of(cls, photos: Sequence[EncodedPhoto]) -> "EncodedBatch":
        content = torch.cat([photo.content.flatten() for photo in photos])
        shapes = [tuple(photo.content.shape) for photo in photos]
        names, boxes = [photo.name for photo in photos], [photo.box for photo in photos]
        return cls(content, shapes, names, boxes, [photo.orientation for photo in photos])

    def contents(self) -> list[Tensor]:
        """Return the content of each photo."""
        parts = self.content.split([prod(shape) for shape in self.shapes])
        return [part.view(shape) for part, shape in zip(parts, self.shapes, strict=True)]


class Encode:
    """A transform of photos that leaves JPEGs encoded: Photo → EncodedPhoto.

    Args:
        crop: the random crop of training images, or None in evaluation.
    """

    def __init__(self, crop: RandomCrop | None) -> None:
        self.crop = crop

    def __call__(self, photo: Photo) -> EncodedPhoto:
        box = None if self.crop is None else self.crop.draw(photo.size)
        jpeg = photo.is_jpeg and photo.image.mode == "RGB"
        if not jpeg:
            return EncodedPhoto(photo.decode(), photo.name, box, orientation=1)
        return EncodedPhoto(
            torch.frombuffer(bytearray(photo.raw), dtype=torch.uint8), photo.name, box, photo.orientation
        )


def decode_batch(
    batch: EncodedBatch, device: torch.device, crop: RandomCrop, preprocess: Callable[[Tensor], Tensor]
) -> Tensor:
    """Decode the photos of a batch on a GPU, and crop or preprocess each one: (B, 3, H, W) uint8.

    Args:
        batch: the photos.
        device: the GPU.
        crop: the crop that drew the boxes of training images.
        preprocess: preparation of the images that have no box.

    Raises:
        UserError: a photo is damaged.
    """
    contents, orientations = batch.contents(), batch.orientations
    encoded = [index for index, content in enumerate(contents) if content.ndim == 1]
    try:
        jpegs = decode_jpeg([contents[index] for index in encoded], ImageReadMode.RGB, device=device) if encoded else []
    except RuntimeError:
        # The decoder doesn't tell which one it can't decode. The CPU decodes them, upright, and names a damaged one.
        jpegs = [Photo(contents[i].numpy().tobytes(), batch.names[i]).decode().to(device) for i in encoded]
        orientations = [1 if i in encoded else orientation for i, orientation in enumerate(orientations)]
    decoded = dict(zip(encoded, jpegs, strict=True))
    images = []
    for index, box in enumerate(batch.boxes):
        image = decoded[index] if index in decoded else contents[index].to(device, non_blocking=True)
        image = turn_upright(image, orientations[index])
        images.append(preprocess(image) if box is None else crop.cut(image, box))
    return torch.stack(images)


def check_decoder(decoder: str, max_corrupt: float) -> None:
    """Check the options of a data module that decodes on a GPU.

    Raises:
        UserError: the decoder is unknown, or corrupt images are to be skipped, for which they have to be decoded by a
            worker.
    """
    if decoder not in ("cpu", "cuda"):
        raise UserError(f"data.decoder={decoder} is not known: choose cpu or cuda.")
    if decoder == "cuda" and max_corrupt > 0:
        raise UserError(
            f"data.decoder=cuda can't skip corrupt images, but data.max_corrupt={max_corrupt}: set it to 0."
        )
