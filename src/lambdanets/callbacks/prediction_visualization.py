"""Predictions, confusion matrix and per-class accuracy of a classifier."""

from typing import Any

import pytorch_lightning as pl
import torch
from torch import Tensor
from torch.utils.tensorboard import SummaryWriter

from lambdanets.callbacks.budgeted_visualization import BudgetedVisualization
from lambdanets.callbacks.drawing import GREEN, RED, add_captions, draw_matrix, enlarge, tile_images
from lambdanets.tasks import Classification, Task

IMAGE_SIDE = 96  # pixels
MAX_CLASSES = 20  # with a curve each, and rows of the table


class PredictionVisualization(BudgetedVisualization):
    """Write a classifier's predictions on the validation split.

    - predictions: images with the predicted class, in red where it is wrong.
    - confusion: fraction of the images of each class (row) that were classified as each class (column), with up to 2000
      classes, as class_top1.
    - class_top1: accuracies of the classes as a histogram, and as a table of the worst ones.
    - `class_top1/<class>`: accuracy of each class, with up to MAX_CLASSES classes.

    Args:
        time_budget: as in `BudgetedVisualization`.
        count: images with predictions.
    """

    def __init__(self, time_budget: float = 0.005, count: int = 16) -> None:
        super().__init__(time_budget, count)

    def draw(self, writer: SummaryWriter, trainer: pl.Trainer, task: pl.LightningModule) -> None:
        if not isinstance(task, Task):
            return
        data: Any = trainer.datamodule  # type: ignore[attr-defined]
        step, classes, confusion = trainer.global_step, list(data.classes), task.confusion
        images = self.validation_images()
        if images is not None and self.labels and (confusion is not None or isinstance(task, Classification)):
            labels = torch.stack(self.labels)
            # Without __call__, since a compiled model would be compiled anew for this number of images.
            logits = type(task.model).forward(task.model, images)
            pixels = torch.stack([data.denormalize(image) for image in images]).expand(-1, 3, -1, -1)
            writer.add_image("predictions", draw_predictions(pixels, logits, labels, classes), step)
        if confusion is None:  # a detector, or a classifier with very many classes
            return
        fractions = confusion / confusion.sum(1, keepdim=True).clamp(min=1)
        writer.add_image("confusion", draw_matrix(fractions, classes), step)
        present = confusion.sum(1) > 0
        accuracies = fractions.diagonal()
        writer.add_histogram("class_top1", accuracies[present], step)
        writer.add_text("class_top1", worst_classes_table(confusion, classes), step)
        if len(classes) <= MAX_CLASSES:
            for index in present.nonzero().flatten().tolist():
                writer.add_scalar(f"class_top1/{classes[index]}", accuracies[index], step)


def draw_predictions(pixels: Tensor, logits: Tensor, labels: Tensor, classes: list[str]) -> Tensor:
    """Draw images with the predicted class and its probability, in green if it is the label, else in red.

    Args:
        pixels: (N, 3, H, W) uint8.
        logits: (N, classes).
        labels: (N,).
        classes: names of the classes.

    Returns:
        (3, H', W'), from 0 to 1.
    """
    probabilities, predictions = logits.float().softmax(-1).max(-1)
    captions = [
        (f"{classes[prediction][:9]} {probability:.0%}", GREEN if prediction == label else RED)
        for prediction, probability, label in zip(
            predictions.tolist(), probabilities.tolist(), labels.tolist(), strict=True
        )
    ]
    return tile_images(add_captions(enlarge(pixels, IMAGE_SIDE), captions) / 255, columns=8)


def worst_classes_table(confusion: Tensor, classes: list[str]) -> str:
    """Return the classes with the lowest accuracies as a Markdown table.

    Args:
        confusion: (classes, classes), images of each class (row) by predicted class (column).
        classes: names of the classes.
    """
    lines = ["| class | images | top-1 | most often taken for |", "|---|---|---|---|"]
    counts = confusion.sum(1)
    accuracies = confusion.diagonal() / counts.clamp(min=1)
    order = [index for index in accuracies.argsort().tolist() if counts[index]]
    for index in order[:MAX_CLASSES]:
        errors = confusion[index].clone()
        errors[index] = 0
        most = int(errors.argmax())
        confused_with = f"{classes[most]} ({int(errors[most])})" if errors[most] else ""
        lines.append(f"| {classes[index]} | {int(counts[index])} | {accuracies[index]:.1%} | {confused_with} |")
    return "\n".join(lines)
