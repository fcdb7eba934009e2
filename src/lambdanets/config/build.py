"""From a config to its objects."""

from typing import Any, NamedTuple

import pytorch_lightning as pl
from hydra.utils import instantiate
from omegaconf import DictConfig, OmegaConf
from torch import nn

from lambdanets.config.strategies import distribution
from lambdanets.data import ImageData
from lambdanets.distributed.devices import check_devices
from lambdanets.errors import UserError
from lambdanets.tasks import Task


class Images(NamedTuple):
    """What a model must know of its data."""

    channels: int
    size: tuple[int, int]
    classes: int


def build_data(config: DictConfig) -> ImageData:
    return instantiate(config.data)


def images_of(config: DictConfig) -> Images:
    """The data's images, without reading any; a folder that isn't there counts as ImageNet's, or COCO's, classes."""
    settings = config.data.copy()
    if OmegaConf.is_missing(settings, "root"):
        settings.root = ""
    data: ImageData = instantiate(settings)
    return Images(data.channels, data.image_size, data.count_classes() or data.USUAL_CLASSES)


def build_model(config: DictConfig, images: Images) -> nn.Module:
    """The model, fitted to the images."""
    settings = config.model.copy()
    for part in (settings, settings.get("backbone") or {}):
        for weights in ("backbone_ckpt", "pretrained"):  # what a training loads
            part.pop(weights, None)
    return instantiate(settings)(
        instantiate(config.mixer), image_size=images.size, in_channels=images.channels, num_classes=images.classes
    )


def build_task(config: DictConfig, data: ImageData, classes: list[str]) -> Task:
    """The task around the model, both fitted to the data; its weights are a function of the seed.

    Raises:
        UserError: the data are not for that task.
    """
    check_numbers(config)
    pl.seed_everything(config.seed, workers=True, verbose=False)
    model = build_model(config, Images(data.channels, data.image_size, len(classes)))
    if config.compile:
        model.compile()
    task: Task = instantiate(config.task)(model, num_classes=len(classes))
    if task.NAME != data.TASK:
        raise UserError(
            f"These data, {type(data).__name__}, are for task={data.TASK}, not for task={task.NAME}: choose others "
            "with data=…, or the other task."
        )
    return task


def build_trainer(config: DictConfig, **options: Any) -> pl.Trainer:
    """Lightning's trainer.

    Args:
        config: the run's config.
        **options: what a job adds, such as loggers and callbacks.

    Raises:
        UserError: the machine lacks the devices that are asked for.
    """
    check_devices(config.trainer)
    # The data modules shard their own splits; folders of runs are the jobs' to fill.
    return instantiate(config.trainer)(
        **distribution(config),
        enable_checkpointing=False,  # the fit job brings its own
        use_distributed_sampler=False,
        num_sanity_val_steps=0,
        enable_model_summary=False,
        **options,
    )


def check_numbers(config: DictConfig) -> None:
    """Raises UserError: one of the numbers that every run needs is none, or too small."""
    for key, kind, least in (
        ("seed", int, 0),
        ("trainer.max_epochs", int, 1),
        ("recipe.batch_size", int, 1),
        ("recipe.optimizer.lr", float, 0.0),
    ):
        value = OmegaConf.select(config, key)
        if not isinstance(value, (int, kind)) or isinstance(value, bool) or value < least:
            noun = "a whole number" if kind is int else "a number"
            raise UserError(f"{key}={value} must be {noun} of at least {least}.")
