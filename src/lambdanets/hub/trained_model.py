"""A trained network together with the preparation of its images."""

import inspect
import os
from collections.abc import Callable, Iterable
from typing import Any, BinaryIO

import numpy as np
import torch
from omegaconf import DictConfig
from PIL import Image
from torch import Tensor, nn

from lambdanets.data import ImageData
from lambdanets.data.files import Photo, read_file
from lambdanets.data.pixels import upright_pixels
from lambdanets.errors import UserError
from lambdanets.tasks import Task

# A file's name, content or open file; a PIL image; pixels of 8 bits as (H, W, channels) or, in torch, (channels, H, W).
ImageSource = str | os.PathLike[str] | bytes | BinaryIO | Image.Image | np.ndarray | Tensor


class TrainedModel(nn.Module):
    """A trained network or graph, from `lambdanets.load`: normalized images (B, C, H, W) → logits, or a task's outputs.

    Args:
        run: a network, or a function that runs a graph of another runtime.
        task: class of the task that it was trained for.
        data: prepares images as in evaluation.
        classes: names of the classes.
        config: of the run that trained it.

    Attributes:
        network: the network, to inspect or to train on; None for a graph.
    """

    def __init__(
        self, run: Callable[[Tensor], Any], *, task: type[Task], data: ImageData, classes: list[str], config: DictConfig
    ) -> None:
        super().__init__()
        self.network = run if isinstance(run, nn.Module) else None
        self.run = run
        self.eval()
        self.task = task
        self.data = data
        self.classes = classes
        self.config = config

    def forward(self, images: Tensor) -> Any:
        return self.run(images)

    def preprocess(self, image: ImageSource) -> Tensor:
        """Prepare an image as in evaluation: (C, H, W) float, normalized.

        Args:
            image: as in `predict`.

        Raises:
            UserError: it is not an image, or can't be read.
        """
        return self.prepare(read_pixels(image))

    def prepare(self, pixels: Tensor) -> Tensor:
        """Prepare pixels as in evaluation: (3, H, W) or (1, H, W) uint8 → (C, h, w) float, normalized."""
        if len(pixels) < self.data.channels:
            pixels = pixels.expand(self.data.channels, -1, -1)
        return self.data.normalize(self.data.preprocess(pixels))

    @torch.no_grad()
    def predict(self, images: ImageSource | Iterable[ImageSource], top: int = 5, threshold: float = 0.5) -> Any:
        """Predict an image, or each of several ones, as the model's task does.

        Args:
            images: an image of any size as a file's name, its bytes, an open binary file, a PIL image, a NumPy array
                (H, W), (H, W, 1), (H, W, 3) or (H, W, 4) uint8, or a tensor (H, W), (1, H, W), (3, H, W) or (4, H, W)
                uint8. Or several: an iterable of these, in which kinds and sizes may differ, or an array or tensor with
                one more dimension in front. Images of files and of PIL are turned upright by their EXIF orientation;
                a fourth channel is the opacity, and what is transparent counts as white.
            top: of a classifier, number of classes.
            threshold: of a detector, the lowest score of an object.

        Returns:
            For one image: of a classifier the likeliest classes with their probabilities, [(class, probability), …],
            of a detector a list of `DetectedObject`. For several images, a list with an entry per image.

        Raises:
            UserError: something is not an image, or can't be read.
        """
        if is_batch(images):
            return [self.predict_one(image, top, threshold) for image in images]  # type: ignore[union-attr]
        return self.predict_one(images, top, threshold)

    def predict_one(self, image: Any, top: int, threshold: float) -> Any:
        """Predict one image. Arguments as in `predict`."""
        pixels = read_pixels(image)
        inputs = self.prepare(pixels)
        height, width = pixels.shape[1:]
        options = {"threshold": threshold, "size": (height, width), "inputs": inputs}
        kinds = {parameter.kind for parameter in inspect.signature(self.task.interpret).parameters.values()}
        if inspect.Parameter.VAR_KEYWORD not in kinds:
            options = {}
        return self.task.interpret(self(self.move(inputs)[None]), self.classes, top=top, **options)

    def move(self, inputs: Tensor) -> Tensor:
        """Move inputs to the device and the precision of the network's weights."""
        weights = () if self.network is None else self.network.parameters()
        weight = next((weight for weight in weights if weight.is_floating_point()), inputs)
        return inputs.to(weight.device, weight.dtype)


def is_batch(images: Any) -> bool:
    """Return whether a source stands for several images."""
    if isinstance(images, Tensor | np.ndarray):
        return images.ndim == 4
    single = isinstance(images, str | os.PathLike | bytes | bytearray | memoryview | Image.Image)
    return not single and not hasattr(images, "read") and isinstance(images, Iterable)


def read_pixels(image: Any) -> Tensor:
    """Return the pixels of an image: (3, H, W) uint8, or (1, H, W) of a gray array or tensor.

    Args:
        image: as in `TrainedModel.predict`.

    Raises:
        UserError: it is not an image, or can't be read.
    """
    if isinstance(image, str | os.PathLike):
        return Photo(read_file(os.fspath(image)), os.fspath(image)).decode()
    if hasattr(image, "read") and not isinstance(image, Image.Image):
        name, image = str(getattr(image, "name", "of an open file")), image.read()
        if not isinstance(image, bytes):
            raise UserError(f"The file '{name}' is open for text: open it with open(…, 'rb').")
        return Photo(image, name).decode()
    if isinstance(image, bytes | bytearray | memoryview):
        return Photo(bytes(image), "in bytes").decode()
    if isinstance(image, Tensor | np.ndarray):
        return read_array(image)
    if not isinstance(image, Image.Image):
        raise UserError(
            f"predict() needs an image, not {type(image).__name__}: give a file, bytes, a PIL image, an array "
            "(H, W, 3) or a tensor (3, H, W) uint8."
        )
    try:
        return upright_pixels(image)
    except Exception as error:  # its file may be damaged, for which Pillow raises many types
        raise UserError(f"The PIL image of mode {image.mode} can't be used: {error}.") from error


def read_array(pixels: Tensor | np.ndarray) -> Tensor:
    """Return the pixels of an array or tensor: (3, H, W) or (1, H, W) uint8.

    Raises:
        UserError: it has another shape or type than those of `TrainedModel.predict`.
    """
    kind, layout = ("a tensor", "(3, H, W)") if isinstance(pixels, Tensor) else ("an array", "(H, W, 3)")
    given = f"{tuple(pixels.shape)} {pixels.dtype}"
    if pixels.dtype not in (torch.uint8, np.uint8):
        raise UserError(
            f"predict() needs the pixels of {kind} as {layout} uint8, not {given}: give values from 0 to 255, which "
            "are normalized here."
        )
    array = pixels.cpu().numpy() if isinstance(pixels, Tensor) else pixels
    if array.ndim == 2:
        array = array[..., None]
    elif isinstance(pixels, Tensor) and array.ndim == 3:
        array = array.transpose(1, 2, 0)
    if array.ndim != 3 or array.shape[2] not in (1, 3, 4) or 0 in array.shape:
        raise UserError(f"predict() needs the pixels of {kind} as {layout} uint8, not {given}: permute the axes.")
    if array.shape[2] == 4:
        return upright_pixels(Image.fromarray(np.ascontiguousarray(array)))
    return torch.from_numpy(array.transpose(2, 0, 1).copy())
