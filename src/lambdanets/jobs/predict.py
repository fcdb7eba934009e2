"""job=predict: the predictions of a trained model for image files."""

import os
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

from omegaconf import DictConfig, ListConfig
from torch.utils.data import DataLoader, IterableDataset

from lambdanets.callbacks import EndOnSignal
from lambdanets.config.build import build_data, build_task, build_trainer
from lambdanets.console import silence_lightning
from lambdanets.data import ImageData
from lambdanets.data.files import Photo, read_file
from lambdanets.data.image_names import EXTENSIONS, find_files
from lambdanets.data.imagefolder import log_skipped_files, name_some
from lambdanets.errors import UserError
from lambdanets.inference.optimize import optimize_for_inference
from lambdanets.runs.checkpoints import check_state_dict, has_global_tables, read_checkpoint


def run(config: DictConfig, folder: Path) -> dict[str, float]:
    """Predict image files in the way of the checkpoint's task; the data set itself isn't needed.

    An image that can't be read doesn't keep the others from being predicted; at the end, an error names it.

    Args:
        config: resolved.
        folder: folder for the predictions.

    Returns:
        The number of images, and what else the task counts, such as objects.

    Raises:
        UserError: no checkpoint or input is named, they or an option don't fit, or some images can't be read.
    """
    silence_lightning()
    if config.ckpt is None or config.input is None:
        raise UserError("job=predict needs ckpt=<run's folder or file> and input=<image or folder of images>.")
    if isinstance(config.input, DictConfig | ListConfig):
        raise UserError(f"input={config.input} is not a path: give one image or one folder of images.")
    top = config.job.get("top", 1)
    if not isinstance(top, int) or isinstance(top, bool) or top < 1:
        raise UserError(f"job.top={top} is not a number of classes: set 1 or more.")
    checkpoint = read_checkpoint(config.ckpt)
    data = build_data(config)
    task = build_task(config, data, checkpoint["labels"]["classes"])
    resize = has_global_tables(checkpoint["config"])
    check_state_dict(task, checkpoint["state_dict"], config.ckpt, resize=resize)
    task.load_state_dict(checkpoint["state_dict"])
    config.trainer.devices, config.trainer.num_nodes, config.trainer.strategy = 1, 1, "auto"
    images = InputImages(image_files(Path(str(config.input))), data)
    trainer = build_trainer(config, logger=False, callbacks=[EndOnSignal()], default_root_dir=folder)
    if trainer.strategy.root_device.type == "cpu" and trainer.precision == "32-true":
        task.model = optimize_for_inference(task.model)
    loader = DataLoader(images, config.recipe.batch_size, collate_fn=data.collate)
    batches: Any = trainer.predict(task, loader)
    predictions = [prediction for batch in batches for prediction in batch]
    folder.mkdir(parents=True, exist_ok=True)
    results: dict[str, float] = {}
    if predictions:
        results = task.write_predictions(
            images.read, predictions, folder, labels=checkpoint["labels"], options=config.job
        )
    if images.errors:
        raise UserError(summarize_errors(images, folder))
    return results


class InputImages(IterableDataset[Any]):
    """Normalized images, each with its "image_id", counted from 1, and the "size" (H, W) of its file.

    Args:
        files: the images.
        data: prepares images as in evaluation.

    Attributes:
        read: the files that could be read, in the order of the items.
        errors: the errors of the others.
    """

    def __init__(self, files: Sequence[Path], data: ImageData) -> None:
        self.files = files
        self.data = data
        self.read: list[Path] = []
        self.errors: list[UserError] = []

    def __iter__(self) -> Iterator[Any]:
        for image_id, file in enumerate(self.files, 1):
            try:
                photo = Photo(read_file(file), str(file))
                image = self.data.normalize(self.data.preprocess(photo.decode()))
            except UserError as error:
                self.errors.append(error)
                continue
            self.read.append(file)
            yield image, {"image_id": image_id, "size": photo.size}


def summarize_errors(images: InputImages, folder: Path) -> str:
    """Return the message for images that couldn't be read: how many there are, and below it the error of each."""
    if len(images.files) == 1:
        return str(images.errors[0])
    others = f"; the predictions of the others are in '{os.path.relpath(folder)}'" if images.read else ""
    return "\n".join(
        [f"{len(images.errors)} of {len(images.files)} images can't be read{others}:", *map(str, images.errors)]
    )


def image_files(path: Path) -> list[Path]:
    """List the image itself, or the images in a folder and below it, by name.

    Hidden files don't count, and links are followed; a folder that can't be read is an error. A warning names files
    that are no images by their names.

    Raises:
        UserError: there are none.
    """
    if path.is_dir():
        files = list(find_files(path))
        images = sorted(Path(file.path) for file in files if file.is_image)
        others = sorted(file.path for file in files if not file.is_image)
        if not images:
            content = name_some(path, others) or "no files"
            raise UserError(
                f"input={path} is a folder without images: it holds {content}. Images are files whose names end in "
                f"{', '.join(EXTENSIONS)}: give a folder of those, or one file of any name."
            )
        log_skipped_files(path, others, images="files")
        return images
    if not os.path.lexists(path):
        raise UserError(f"input={path} does not exist: give an image or a folder of images.")
    return [path]
