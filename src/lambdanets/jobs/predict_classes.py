"""The likeliest classes of images."""

import json
from pathlib import Path
from typing import Any

import torch
from omegaconf import DictConfig
from rich.console import Console
from rich.table import Table
from torch.utils.data import DataLoader

from lambdanets.atomic import atomic_write
from lambdanets.config.build import build_trainer
from lambdanets.data.files import DecodeThen, ImageFiles
from lambdanets.jobs.trained import Trained


def predict_classes(config: DictConfig, trained: Trained, files: list[Path], folder: Path) -> dict[str, float]:
    """Prints the config.job.top likeliest classes of each image, and writes them as predictions.json.

    Args:
        config: resolved.
        trained: the model.
        files: the images.
        folder: where the file goes.

    Returns:
        The number of images.
    """
    data, classes = trained.data, trained.classes
    photos = ImageFiles(
        [(str(file), 0) for file in files], DecodeThen(lambda image: data.normalize(data.preprocess(image)))
    )
    trainer = build_trainer(config, logger=False, default_root_dir=folder)
    batches: Any = trainer.predict(trained.task, DataLoader(photos, config.recipe.batch_size))
    predictions = []
    for file, row in zip(files, torch.cat(batches), strict=True):
        likeliest = row.topk(min(config.job.top, len(classes)))
        named = [(classes[i], p) for p, i in zip(likeliest.values.tolist(), likeliest.indices.tolist(), strict=True)]
        predictions.append({"file": str(file), "classes": [{"name": n, "probability": p} for n, p in named]})
    atomic_write(folder / "predictions.json", json.dumps(predictions, indent=2) + "\n")
    show(predictions)
    return {"images": len(files)}


def show(predictions: list[dict[str, Any]]) -> None:
    console = Console()
    for prediction in predictions:
        console.print(prediction["file"], soft_wrap=True, highlight=False)
        table = Table(show_header=False)
        for guess in prediction["classes"]:
            table.add_row(guess["name"], f"{guess['probability']:.1%}")
        console.print(table)
