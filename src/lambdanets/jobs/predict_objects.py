"""The objects in images: pictures, and COCO results."""

import json
import logging
import os
from collections import Counter
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from omegaconf import DictConfig
from rich.console import Console
from torch.utils.data import DataLoader
from torchvision.io import write_png

from lambdanets.atomic import atomic_write
from lambdanets.config.build import build_trainer
from lambdanets.data.files import ImageFiles, Photo, read_image
from lambdanets.jobs.trained import Trained
from lambdanets.tasks.detection import write_results
from lambdanets.tasks.predictions import ImagePrediction
from lambdanets.tasks.visualization import draw_objects

log = logging.getLogger(__name__)


def predict_objects(config: DictConfig, trained: Trained, files: list[Path], folder: Path) -> dict[str, float]:
    """Draws the objects that score config.job.threshold and more into a copy of each image, as <name>.png.

    All that was found goes into boxes.json and masks.json, lists in COCO's format of results; images.json tells which
    image has which number there. COCO's own images keep their numbers.

    Args:
        config: resolved.
        trained: the model.
        files: the images.
        folder: where the files go.

    Returns:
        The number of images and of drawn objects.
    """
    data = trained.data
    numbers = image_numbers(files)
    photos = Photos(files, numbers, trained)
    trainer = build_trainer(config, logger=False, default_root_dir=folder)
    loader = DataLoader(photos, batch_size=1, collate_fn=data.collate)
    console, found, count = Console(), [], 0
    batches: list[list[ImagePrediction]] = trainer.predict(trained.task, loader)  # type: ignore[assignment]
    for file, name, (objects,) in zip(files, picture_names(files), batches, strict=True):
        sure = int((objects.scores >= config.job.threshold).sum())
        labels = objects.labels[:sure].tolist()
        picture = draw_objects(
            read_image(file),
            objects.boxes[:sure],
            objects.masks[:sure],
            labels,
            trained.classes,
            objects.scores[:sure].tolist(),
        )
        folder.mkdir(parents=True, exist_ok=True)
        write_png(picture, str(folder / name))
        seen = Counter(trained.classes[label - 1] for label in labels)
        said = ", ".join(f"{number} × {label}" for label, number in seen.most_common()) or "nothing"
        console.print(f"{file}: {said}", soft_wrap=True, highlight=False)
        found.append(objects)
        count += sure
    write_results(folder, found, trained.checkpoint["category_ids"])
    listed: list[dict[str, Any]] = [
        {"id": number, "file_name": str(file), "height": objects.size[0], "width": objects.size[1]}
        for number, file, objects in zip(numbers, files, found, strict=True)
    ]
    atomic_write(folder / "images.json", json.dumps(listed, indent=1) + "\n")
    log.info("Pictures, boxes.json and masks.json lie in %s.", os.path.relpath(folder))
    return {"images": len(files), "objects": count}


class Photos(ImageFiles):
    """Images as the model wants them, with what it takes to find the objects' places in the file's image.

    Args:
        files: the images.
        numbers: theirs in COCO's results.
        trained: the model.
    """

    def __init__(self, files: Sequence[Path], numbers: Sequence[int], trained: Trained) -> None:
        data = trained.data
        super().__init__(
            [(str(file), number) for file, number in zip(files, numbers, strict=True)],
            lambda photo: data.normalize(data.preprocess(photo.decode())),
        )

    def example(self, index: int, photo: Photo) -> Any:
        return self.transform(photo), {"image_id": self.samples[index][1], "size": photo.size}


def image_numbers(files: Sequence[Path]) -> list[int]:
    """COCO's numbers, which its files are named by, where all have such names; else the images' places, from 1 on."""
    if all(file.stem.isdigit() for file in files) and len({int(file.stem) for file in files}) == len(files):
        return [int(file.stem) for file in files]
    return list(range(1, len(files) + 1))


def picture_names(files: Sequence[Path]) -> list[str]:
    """A name for each picture; two images of one name in different folders get their places before it."""
    twice = Counter(file.stem for file in files)
    return [
        f"{file.stem}.png" if twice[file.stem] == 1 else f"{place}-{file.stem}.png"
        for place, file in enumerate(files, 1)
    ]
