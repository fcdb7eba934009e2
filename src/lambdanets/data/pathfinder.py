"""Pathfinder: are two marks connected by a dashed contour?"""

from typing import Any, NamedTuple

import torch
from torch.utils.data import TensorDataset

from lambdanets.data.batches import derive_seed
from lambdanets.data.contours import draw, sample_scenes
from lambdanets.data.module import ImageData
from lambdanets.errors import UserError


class SceneKind(NamedTuple):
    """Scenes of 32×32 pixels.

    Args:
        length: dashes of each of the two long contours.
        distractors: number of short contours.
    """

    length: int
    distractors: int


# Equal parts of each kind. Every set includes short contours: from long ones alone, networks don't start to learn.
DIFFICULTIES = {
    "easy": (SceneKind(3, 0), SceneKind(4, 1)),
    "medium": (SceneKind(3, 0), SceneKind(4, 1), SceneKind(5, 2)),
    "hard": (SceneKind(3, 0), SceneKind(5, 2), SceneKind(7, 3), SceneKind(9, 3)),
}
DISTRACTOR_LENGTH = 3  # dashes
CHUNK = 2048  # scenes that are drawn at a time, to save memory


class Pathfinder(ImageData):
    """A task that needs long-range interactions, after Linsley et al. (2018) and the Long Range Arena (2021).

    Each image shows two long dashed contours, short distractors, and two marks: at both ends of one contour
    ("connected") or at one end of each ("apart"). The distance of the marks does not reveal the class (see
    `sample_scenes`), and both classes are about equally frequent. Images are generated when they are needed, as a
    function of the arguments and `split_seed`, with different seeds for the three splits.

    Args:
        side: side of the square images, such as 32 or 64; the numbers of dashes and distractors grow with it.
        difficulty: "easy", "medium" or "hard": up to 4, 5 or 9 dashes per contour, up to 1, 2 or 3 distractors.
        train_images: number of training images.
        val_images: number of validation images.
        test_images: number of test images.
        **options: options of `ImageData`.

    Raises:
        UserError: the difficulty is unknown, or the side is below 32.
    """

    def __init__(
        self,
        *,
        side: int = 32,
        difficulty: str = "medium",
        train_images: int = 20_000,
        val_images: int = 2_000,
        test_images: int = 5_000,
        **options: Any,
    ) -> None:
        super().__init__(channels=1, image_size=(side, side), mean=[0.06], std=[0.17], **options)
        if difficulty not in DIFFICULTIES:
            raise UserError(f"difficulty={difficulty} is not known; choose one of {', '.join(DIFFICULTIES)}.")
        if side < 32:
            raise UserError(f"side={side} is too small for contours: set it to at least 32 pixels.")
        self.side = side
        self.kinds = DIFFICULTIES[difficulty]
        self.sizes = [train_images, val_images, test_images]
        self.classes = ["apart", "connected"]

    def load_fit_splits(self) -> tuple[TensorDataset, TensorDataset]:
        return self.make_split(0), self.make_split(1)

    def load_test_split(self) -> TensorDataset:
        return self.make_split(2)

    def make_split(self, split: int) -> TensorDataset:
        """Generate a split; 0, 1 and 2 are training, validation and test."""
        scale = self.side / 32
        per_kind, remainder = divmod(self.sizes[split], len(self.kinds))
        images, labels = [], []
        for index, kind in enumerate(self.kinds):
            scenes = sample_scenes(
                per_kind + (index < remainder),
                side=self.side,
                length=round(scale * kind.length),
                distractors=round(scale * kind.distractors),
                distractor_length=round(scale * DISTRACTOR_LENGTH),
                seed=derive_seed(self.split_seed, 3 * index + split),
            )
            images += [draw(chunk, self.side) for chunk in scenes.chunks(CHUNK)]
            labels.append(scenes.connected.long())
        return TensorDataset(torch.cat(images), torch.cat(labels))
