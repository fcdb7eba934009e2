"""job=predict: what a trained model says of images."""

from pathlib import Path

from omegaconf import DictConfig

from lambdanets.config.build import build_data, build_task
from lambdanets.console import silence_lightning
from lambdanets.data.files import EXTENSIONS
from lambdanets.errors import UserError
from lambdanets.jobs.predict_classes import predict_classes
from lambdanets.jobs.predict_objects import predict_objects
from lambdanets.jobs.trained import Trained
from lambdanets.runs.checkpoints import check_state_dict, read_checkpoint
from lambdanets.tasks import Detection


def run(config: DictConfig, folder: Path) -> dict[str, float]:
    """Names the likeliest classes of each image, or finds the objects in it; the data set itself isn't needed.

    Args:
        config: resolved.
        folder: where predictions.json, or pictures and COCO results, go.

    Returns:
        The number of images, and of objects.

    Raises:
        UserError: no checkpoint or input is named, either can't be read, or they don't fit.
    """
    silence_lightning()
    if config.ckpt is None or config.input is None:
        raise UserError("job=predict needs ckpt=<run's folder or file> and input=<image or folder of images>.")
    checkpoint = read_checkpoint(config.ckpt)
    data = build_data(config)
    task = build_task(config, data, checkpoint["classes"])
    check_state_dict(task, checkpoint["state_dict"], config.ckpt, resize=True)
    task.load_state_dict(checkpoint["state_dict"])
    config.trainer.devices, config.trainer.num_nodes, config.trainer.strategy = 1, 1, "auto"
    trained = Trained(task, data, checkpoint)
    files = image_files(Path(config.input))
    if isinstance(task, Detection):
        return predict_objects(config, trained, files, folder)
    return predict_classes(config, trained, files, folder)


def image_files(path: Path) -> list[Path]:
    """The image itself, or the images in a folder and below it, by name.

    Raises:
        UserError: there is nothing there.
    """
    if path.is_dir():
        files = sorted(file for file in path.rglob("*") if file.suffix.lower() in EXTENSIONS)
        if not files:
            raise UserError(f"input={path} is a folder without images.")
        return files
    if not path.exists():
        raise UserError(f"input={path} does not exist: give an image or a folder of images.")
    return [path]
