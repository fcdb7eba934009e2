"""job=predict: the predictions of a trained model for image files."""

from collections.abc import Sequence
from pathlib import Path
from typing import Any

from omegaconf import DictConfig
from torch.utils.data import DataLoader

from lambdanets.config.build import build_data, build_task, build_trainer
from lambdanets.console import silence_lightning
from lambdanets.data import ImageData
from lambdanets.data.files import EXTENSIONS, ImageFiles, Photo
from lambdanets.errors import UserError
from lambdanets.runs.checkpoints import check_state_dict, read_checkpoint


def run(config: DictConfig, folder: Path) -> dict[str, float]:
    """Predict image files in the way of the checkpoint's task; the data set itself isn't needed.

    Args:
        config: resolved.
        folder: folder for the predictions.

    Returns:
        The number of images, and what else the task counts, such as objects.

    Raises:
        UserError: no checkpoint or input is named, either can't be read, or they don't fit.
    """
    silence_lightning()
    if config.ckpt is None or config.input is None:
        raise UserError("job=predict needs ckpt=<run's folder or file> and input=<image or folder of images>.")
    checkpoint = read_checkpoint(config.ckpt)
    data = build_data(config)
    task = build_task(config, data, checkpoint["labels"]["classes"])
    check_state_dict(task, checkpoint["state_dict"], config.ckpt, resize=True)
    task.load_state_dict(checkpoint["state_dict"])
    config.trainer.devices, config.trainer.num_nodes, config.trainer.strategy = 1, 1, "auto"
    files = image_files(Path(config.input))
    trainer = build_trainer(config, logger=False, default_root_dir=folder)
    loader = DataLoader(InputImages(files, data), config.recipe.batch_size, collate_fn=data.collate)
    batches: Any = trainer.predict(task, loader)
    predictions = [prediction for batch in batches for prediction in batch]
    folder.mkdir(parents=True, exist_ok=True)
    return task.write_predictions(files, predictions, folder, labels=checkpoint["labels"], options=config.job)


class InputImages(ImageFiles):
    """Normalized images, each with its "image_id", counted from 1, and the "size" (H, W) of its file.

    Args:
        files: the images.
        data: prepares images as in evaluation.
    """

    def __init__(self, files: Sequence[Path], data: ImageData) -> None:
        super().__init__(
            [(str(file), image_id) for image_id, file in enumerate(files, 1)],
            lambda photo: data.normalize(data.preprocess(photo.decode())),
        )

    def make_item(self, index: int, photo: Photo) -> Any:
        return self.transform(photo), {"image_id": self.samples[index][1], "size": photo.size}


def image_files(path: Path) -> list[Path]:
    """List the image itself, or the images in a folder and below it, by name.

    Raises:
        UserError: there are none.
    """
    if path.is_dir():
        files = sorted(file for file in path.rglob("*") if file.suffix.lower() in EXTENSIONS)
        if not files:
            raise UserError(f"input={path} is a folder without images.")
        return files
    if not path.exists():
        raise UserError(f"input={path} does not exist: give an image or a folder of images.")
    return [path]
