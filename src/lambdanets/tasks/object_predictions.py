"""The objects in image files: drawn images, and COCO results."""

import json
import logging
import os
from collections import Counter
from collections.abc import Sequence
from pathlib import Path

from torchvision.io import encode_png

from lambdanets.atomic import atomic_write
from lambdanets.console import plain_console
from lambdanets.data.files import read_image
from lambdanets.errors import printable
from lambdanets.tasks.predictions import ImagePrediction, write_coco_results
from lambdanets.tasks.visualization import draw_objects

log = logging.getLogger(__name__)


def write_object_predictions(
    files: Sequence[Path],
    predictions: Sequence[ImagePrediction],
    folder: Path,
    *,
    classes: list[str],
    category_ids: list[int],
    threshold: float,
) -> dict[str, float]:
    """Draw the objects of each image into a copy of it, <name>.png, and write COCO results.

    boxes.json and masks.json have all objects, whatever their score; images.json has the id of each image. COCO's own
    images keep their ids.

    Args:
        files: the images.
        predictions: one per image.
        folder: an existing folder for the results.
        classes: names of the classes.
        category_ids: COCO's ids of the classes.
        threshold: the lowest score of an object that is drawn.

    Returns:
        The number of images and of drawn objects.
    """
    console, count = plain_console(), 0
    image_ids = coco_image_ids(files)
    predictions = [p._replace(image_id=image_id) for p, image_id in zip(predictions, image_ids, strict=True)]
    for file, name, prediction in zip(files, picture_names(files), predictions, strict=True):
        objects = prediction.above(threshold)
        labels = objects.labels.tolist()
        image = read_image(file)
        picture = draw_objects(image, objects.boxes, objects.masks, labels, classes, objects.scores.tolist())
        (folder / name).write_bytes(encode_png(picture).numpy().tobytes())
        counts = Counter(classes[label - 1] for label in labels)
        summary = ", ".join(f"{number} × {label}" for label, number in counts.most_common()) or "nothing"
        console.print(printable(f"{file}: {summary}"), soft_wrap=True)
        count += len(labels)
    write_coco_results(folder, predictions, category_ids)
    images = [
        {"id": prediction.image_id, "file_name": str(file), "height": prediction.size[0], "width": prediction.size[1]}
        for file, prediction in zip(files, predictions, strict=True)
    ]
    atomic_write(folder / "images.json", json.dumps(images, indent=1) + "\n")
    log.info("The drawn images, boxes.json and masks.json are in %s.", os.path.relpath(folder))
    return {"images": len(files), "objects": count}


def coco_image_ids(files: Sequence[Path]) -> list[int]:
    """Return COCO's ids, after which its files are named, or 1, 2, … if not all files have such names."""
    if all(file.stem.isdecimal() for file in files) and len({int(file.stem) for file in files}) == len(files):
        return [int(file.stem) for file in files]
    return list(range(1, len(files) + 1))


def picture_names(files: Sequence[Path]) -> list[str]:
    """Return a file name for each drawn image; files of the same name get their position in front."""
    counts = Counter(file.stem for file in files)
    names = [
        file.stem if counts[file.stem] == 1 else f"{position}-{file.stem}" for position, file in enumerate(files, 1)
    ]
    if len(set(names)) < len(names):  # such as 1-a beside two files a
        names = [f"{position}-{file.stem}" for position, file in enumerate(files, 1)]
    return [f"{name}.png" for name in names]
