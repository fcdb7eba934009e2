"""A trained network with what it takes to use it."""

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

Picture = str | Path | Image.Image | Tensor


class TrainedModel(nn.Module):
    """What `lambdanets.load` gives: normalized images (B, C, H, W) → logits (B, num_classes), or a detector's objects.

    Args:
        run: computes that; a network, or a graph in a format of another runtime.
        data: knows how images are prepared.
        classes: their names.
        config: of the run that trained it.

    Attributes:
        network: the network as a module to look into or to train on, or None where the format has graphs only.
    """

    def __init__(
        self, run: Callable[[Tensor], Any], *, data: ImageData, classes: list[str], config: DictConfig
    ) -> None:
        super().__init__()
        self.network = run if isinstance(run, nn.Module) else None
        self.run = run
        self.eval()
        self.data = data
        self.classes = classes
        self.config = config

    def forward(self, images: Tensor) -> Any:
        return self.run(images)

    def preprocess(self, picture: Picture) -> Tensor:
        """An image as the network was trained to see it: (C, H, W) float, normalized.

        Args:
            picture: a file, an image of PIL's, or (3, H, W) or (1, H, W) uint8, of any size.
        """
        pixels = pixels_of(picture)
        if pixels.dtype != torch.uint8 or pixels.ndim != 3:
            raise UserError(
                f"An image is (C, H, W) uint8, and this is {tuple(pixels.shape)} {pixels.dtype}: give pixels from 0 "
                "to 255, which preprocess() normalizes itself."
            )
        return self.data.normalize(self.data.preprocess(pixels))

    @torch.no_grad()
    def predict(self, picture: Picture, top: int = 5) -> list[tuple[str, float]]:
        """The likeliest classes of an image with their probabilities.

        Raises:
            UserError: the model is a detector, which finds objects.
        """
        if self.data.TASK != "classification":
            raise UserError("This model finds objects in images: use its forward, or job=predict for pictures.")
        probabilities = self(self.preprocess(picture)[None]).float().softmax(-1)[0]
        likeliest = probabilities.topk(min(top, len(self.classes)))
        pairs = zip(likeliest.indices.tolist(), likeliest.values.tolist(), strict=True)
        return [(self.classes[index], probability) for index, probability in pairs]


def pixels_of(picture: Picture) -> Tensor:
    """(C, H, W)."""
    if isinstance(picture, Tensor):
        return picture
    if isinstance(picture, Image.Image):
        return F.pil_to_tensor(picture.convert("RGB"))
    return read_image(Path(picture))
