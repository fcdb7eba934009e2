"""A trained network together with the preparation of its images."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
from omegaconf import DictConfig
from PIL import Image
from torch import Tensor, nn
from torchvision.transforms.v2 import functional as F

from lambdanets.data import ImageData
from lambdanets.data.files import read_image
from lambdanets.errors import UserError
from lambdanets.tasks import Task

ImageSource = str | Path | Image.Image | Tensor


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
            image: a file, a PIL image, or (3, H, W) or (1, H, W) uint8, of any size.
        """
        pixels = read_pixels(image)
        if pixels.dtype != torch.uint8 or pixels.ndim != 3:
            raise UserError(
                f"preprocess() needs an image (C, H, W) uint8, not {tuple(pixels.shape)} {pixels.dtype}: give pixels "
                "from 0 to 255, which it normalizes itself."
            )
        return self.data.normalize(self.data.preprocess(pixels))

    @torch.no_grad()
    def predict(self, image: ImageSource, top: int = 5) -> Any:
        """Predict one image as the model's task does: as a rule the likeliest classes with their probabilities.

        Args:
            image: as in `preprocess`.
            top: number of classes.

        Raises:
            UserError: the task has no prediction for one image, such as detection.
        """
        return self.task.interpret(self(self.preprocess(image)[None]), self.classes, top=top)


def read_pixels(image: ImageSource) -> Tensor:
    """Return the pixels of an image: (C, H, W)."""
    if isinstance(image, Tensor):
        return image
    if isinstance(image, Image.Image):
        return F.pil_to_tensor(image.convert("RGB"))
    return read_image(Path(image))
