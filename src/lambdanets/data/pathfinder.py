"""Pathfinder: are two marks joined by a dashed contour?"""

from typing import Any, NamedTuple

import torch
from torch.utils.data import TensorDataset

from lambdanets.data.contours import draw, scenes
from lambdanets.data.module import ImageData
from lambdanets.errors import UserError


class Difficulty(NamedTuple):
    """For images of 32×32: dashes of the two long contours, number of distractors, dashes of each of them."""

    length: int
    distractors: int
    short: int


DIFFICULTIES = {"easy": Difficulty(5, 2, 3), "medium": Difficulty(7, 3, 3), "hard": Difficulty(9, 3, 3)}
CHUNK = 2048  # scenes that are drawn at a time


class Pathfinder(ImageData):
    """A task that only long-range interactions solve, after Linsley et al. (2018) and the Long Range Arena (2021).

    Each image shows two long dashed contours, short distractors, and two marks: at both ends of one contour
    ("connected") or at an end of each ("apart"). The marks' distance doesn't tell which (see `scenes`). Classes are
    about equally frequent. Images are made when they are needed, and are a function of the arguments and `split_seed`;
    the three splits are made from different seeds.

    Args:
        side: of the square images, such as 32 or 64; contours grow with it, dashes don't.
        difficulty: "easy", "medium" or "hard": longer contours, more distractors.
        train_images: number of training images.
        val_images: number of validation images.
        test_images: number of test images.
        **options: as `ImageData`.

    Raises:
        UserError: an unknown difficulty, a side below 32.
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
        super().__init__(channels=1, image_size=(side, side), mean=[0.1], std=[0.2], **options)
        if difficulty not in DIFFICULTIES:
            raise UserError(f"difficulty={difficulty} is not known; choose one of {', '.join(DIFFICULTIES)}.")
        if side < 32:
            raise UserError(f"side={side} leaves no room for contours; give at least 32 pixels.")
        self.side = side
        self.difficulty = DIFFICULTIES[difficulty]
        self.sizes = [train_images, val_images, test_images]
        self.classes = ["apart", "connected"]

    def fit_splits(self) -> tuple[TensorDataset, TensorDataset]:
        return self.split(0), self.split(1)

    def test_split(self) -> TensorDataset:
        return self.split(2)

    def split(self, part: int) -> TensorDataset:
        """The training, validation or test images: part 0, 1, 2."""
        length, distractors, short = self.difficulty
        grown = self.side / 32
        found = scenes(
            self.sizes[part],
            side=self.side,
            length=round(grown * length),
            distractors=round(grown * distractors),
            short=round(grown * short),
            seed=3 * self.split_seed + part,
        )
        pictures = [draw(chunk, self.side) for chunk in found.chunks(CHUNK)]
        return TensorDataset(torch.cat(pictures), found.connected.long())
