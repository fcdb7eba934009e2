"""The likeliest classes of images, printed and written as JSON."""

import json
from collections.abc import Sequence
from pathlib import Path

from rich.table import Table
from torch import Tensor

from lambdanets.atomic import atomic_write
from lambdanets.console import plain_console
from lambdanets.errors import printable


def likeliest_classes(probabilities: Tensor, classes: Sequence[str], top: int) -> list[tuple[str, float]]:
    """Return the names and probabilities of an image's likeliest classes, the likeliest first.

    Args:
        probabilities: (num_classes,).
        classes: names of the classes.
        top: number of classes to return.
    """
    values, indices = probabilities.topk(min(top, len(classes)))
    return [(classes[index], value) for index, value in zip(indices.tolist(), values.tolist(), strict=True)]


def write_class_predictions(
    files: Sequence[Path], probabilities: Sequence[Tensor], path: Path, classes: Sequence[str], top: int
) -> None:
    """Write the likeliest classes of each image as JSON, and print them.

    Args:
        files: the images.
        probabilities: (num_classes,) for each image.
        path: the JSON file.
        classes: names of the classes.
        top: number of classes per image.
    """
    guesses_by_file = [likeliest_classes(row, classes, top) for row in probabilities]
    entries = [
        {"file": str(file), "classes": [{"name": n, "probability": p} for n, p in guesses]}
        for file, guesses in zip(files, guesses_by_file, strict=True)
    ]
    atomic_write(path, json.dumps(entries, indent=2) + "\n")  # first: a reader of the output may stop, as `head` does
    console = plain_console()
    for file, guesses in zip(files, guesses_by_file, strict=True):
        console.print(printable(str(file)), soft_wrap=True)
        table = Table(show_header=False)
        for name, probability in guesses:
            table.add_row(printable(name), f"{probability:.1%}")
        console.print(table)
