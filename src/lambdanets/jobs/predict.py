"""job=predict: the likeliest classes of images."""

import json
from pathlib import Path
from typing import Any

import torch
from omegaconf import DictConfig
from rich.console import Console
from rich.table import Table
from torch.utils.data import DataLoader

from lambdanets.data.files import EXTENSIONS, ImageFiles, Whole
from lambdanets.errors import UserError
from lambdanets.jobs.build import build_data, build_task, build_trainer
from lambdanets.jobs.checkpoints import check_fits, read_checkpoint
from lambdanets.jobs.console import quiet
from lambdanets.jobs.runs import write_text


def run(config: DictConfig, folder: Path) -> dict[str, float]:
    """Names the config.job.top likeliest classes of each image; the data set itself isn't needed.

    Args:
        config: resolved.
        folder: where predictions.json goes.

    Returns:
        The number of images.

    Raises:
        UserError: no checkpoint or input is named, either can't be read, or they don't fit.
    """
    quiet()
    if config.ckpt is None or config.input is None:
        raise UserError("job=predict needs ckpt=<run's folder or file> and input=<image or folder of images>.")
    checkpoint = read_checkpoint(config.ckpt)
    classes: list[str] = checkpoint["classes"]
    data = build_data(config)
    task = build_task(config, data, classes)
    check_fits(task, checkpoint["state_dict"], config.ckpt, resize=True)
    task.load_state_dict(checkpoint["state_dict"])

    files = image_files(Path(config.input))
    photos = ImageFiles([(str(file), 0) for file in files], Whole(lambda image: data.normalise(data.preprocess(image))))
    config.trainer.devices, config.trainer.num_nodes, config.trainer.strategy = 1, 1, "auto"
    trainer = build_trainer(config, logger=False, default_root_dir=folder)
    probabilities = torch.cat(trainer.predict(task, DataLoader(photos, config.recipe.batch_size)))  # type: ignore[arg-type]

    predictions = []
    for file, row in zip(files, probabilities, strict=True):
        likeliest = row.topk(min(config.job.top, len(classes)))
        named = [(classes[i], p) for p, i in zip(likeliest.values.tolist(), likeliest.indices.tolist(), strict=True)]
        predictions.append({"file": str(file), "classes": [{"name": n, "probability": p} for n, p in named]})
    write_text(folder / "predictions.json", json.dumps(predictions, indent=2) + "\n")
    show(predictions)
    return {"images": len(files)}


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


def show(predictions: list[dict[str, Any]]) -> None:
    console = Console()
    for prediction in predictions:
        console.print(prediction["file"], soft_wrap=True, highlight=False)
        table = Table(show_header=False)
        for guess in prediction["classes"]:
            table.add_row(guess["name"], f"{guess['probability']:.1%}")
        console.print(table)
