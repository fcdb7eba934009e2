"""What a classifier gets right, and what it takes for what."""

from typing import Any

import pytorch_lightning as pl
import torch
from torch import Tensor
from torch.utils.tensorboard import SummaryWriter

from lambdanets.callbacks.budgeted_visualization import BudgetedVisualization
from lambdanets.callbacks.drawing import GREEN, RED, captioned, enlarged, matrix, tiles
from lambdanets.tasks import Classification

FEW = 20  # classes that get a curve each, and rows of a table


class PredictionVisualization(BudgetedVisualization):
    """Of a classifier's validation:

    - predictions: images with what they were taken for, in red what they are not.
    - confusion: the share of each class's images, a row, that were taken for each class, a column.
    - class_top1: accuracies of the classes, as a histogram, and as a table of those that are worst.
    - class_top1/<class>: a curve for each where there are not more than 20.

    Args:
        time_budget: as in `BudgetedVisualization`.
        count: images that are shown.
    """

    def __init__(self, time_budget: float = 0.005, count: int = 16) -> None:
        super().__init__(time_budget)
        self.count = count

    def draw(self, writer: SummaryWriter, trainer: pl.Trainer, task: pl.LightningModule) -> None:
        if not isinstance(task, Classification) or task.confusion is None:
            return
        data: Any = trainer.datamodule  # type: ignore[attr-defined]
        step, classes, confusion = trainer.global_step, list(data.classes), task.confusion
        images = self.images(self.count)
        if images is not None:
            # Not the module's call, which a compiler would compile anew for this number of images.
            certainties, guesses = type(task.model).forward(task.model, images).float().softmax(-1).max(-1)
            labels = self.batch[1][: self.count]
            shown = enlarged(torch.stack([data.denormalize(image) for image in images]), 96)
            captions = [
                (f"{classes[guess][:9]} {certainty:.0%}", GREEN if guess == label else RED)
                for guess, certainty, label in zip(guesses.tolist(), certainties.tolist(), labels.tolist(), strict=True)
            ]
            shown = captioned(shown.expand(-1, 3, -1, -1), captions)
            writer.add_image("predictions", tiles(shown / 255, 8), step)
        shares = confusion / confusion.sum(1, keepdim=True).clamp(min=1)
        writer.add_image("confusion", matrix(shares, classes), step)
        present = confusion.sum(1) > 0
        right = shares.diagonal()
        writer.add_histogram("class_top1", right[present], step)
        writer.add_text("class_top1", table(right, confusion, present, classes), step)
        if len(classes) <= FEW:
            for name, share, there in zip(classes, right.tolist(), present.tolist(), strict=True):
                if there:
                    writer.add_scalar(f"class_top1/{name}", share, step)


def table(right: Tensor, confusion: Tensor, present: Tensor, classes: list[str]) -> str:
    """The classes that are worst, as Markdown: of how many images how many, and for what they are taken."""
    lines = ["| class | images | top-1 | most often taken for |", "|---|---|---|---|"]
    order = [index for index in right.argsort().tolist() if present[index]]
    for index in order[:FEW]:
        others = confusion[index].clone()
        others[index] = 0
        most = int(others.argmax())
        taken = f"{classes[most]} ({int(others[most])})" if others[most] else ""
        lines.append(f"| {classes[index]} | {int(confusion[index].sum())} | {right[index]:.1%} | {taken} |")
    return "\n".join(lines)
