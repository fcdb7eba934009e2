"""Pathfinder: are two marks joined by a dashed contour?"""

from typing import Any, NamedTuple

import torch
from torch.utils.data import TensorDataset

from lambdanets.data.batches import mixed_seed
from lambdanets.data.contours import draw, scenes
from lambdanets.data.module import ImageData
from lambdanets.errors import UserError


class Kind(NamedTuple):
    """Scenes of 32×32: dashes of the two long contours, number of distractors."""

    length: int
    distractors: int


# Every set has short contours too, a share of each kind: from long ones alone, networks find nothing to begin with.
DIFFICULTIES = {
    "easy": (Kind(3, 0), Kind(4, 1)),
    "medium": (Kind(3, 0), Kind(4, 1), Kind(5, 2)),
    "hard": (Kind(3, 0), Kind(5, 2), Kind(7, 3), Kind(9, 3)),
}
SHORT = 3  # dashes of a distractor
CHUNK = 2048  # scenes that are drawn at a time


class Pathfinder(ImageData):
    """A task that only long-range interactions solve, after Linsley et al. (2018) and the Long Range Arena (2021).

    Each image shows two long dashed contours, short distractors, and two marks: at both ends of one contour
    ("connected") or at an end of each ("apart"). The marks' distance doesn't tell which (see `scenes`). Classes are
    about equally frequent. Images are made when they are needed, and are a function of the arguments and `split_seed`;
    the three splits are made from different seeds.

    Args:
        side: of the square images, such as 32 or 64; numbers of dashes and of distractors grow with it.
        difficulty: "easy", "medium" or "hard": up to 4, 5 or 9 dashes a contour, up to 1, 2 or 3 distractors.
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
        super().__init__(channels=1, image_size=(side, side), mean=[0.06], std=[0.17], **options)
        if difficulty not in DIFFICULTIES:
            raise UserError(f"difficulty={difficulty} is not known; choose one of {', '.join(DIFFICULTIES)}.")
        if side < 32:
            raise UserError(f"side={side} leaves no room for contours; give at least 32 pixels.")
        self.side = side
        self.kinds = DIFFICULTIES[difficulty]
        self.sizes = [train_images, val_images, test_images]
        self.classes = ["apart", "connected"]

    def load_fit_splits(self) -> tuple[TensorDataset, TensorDataset]:
        return self.split(0), self.split(1)

    def load_test_split(self) -> TensorDataset:
        return self.split(2)

    def split(self, part: int) -> TensorDataset:
        """The training, validation or test images: part 0, 1, 2."""
        grown = self.side / 32
        share, rest = divmod(self.sizes[part], len(self.kinds))
        pictures, labels = [], []
        for number, kind in enumerate(self.kinds):
            found = scenes(
                share + (number < rest),
                side=self.side,
                length=round(grown * kind.length),
                distractors=round(grown * kind.distractors),
                short=round(grown * SHORT),
                seed=mixed_seed(self.split_seed, 3 * number + part),
            )
            pictures += [draw(chunk, self.side) for chunk in found.chunks(CHUNK)]
            labels.append(found.connected.long())
        return TensorDataset(torch.cat(pictures), torch.cat(labels))
