"""The objects that a config describes: data, model, task, trainer."""

import math
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import Any, NamedTuple

import pytorch_lightning as pl
from hydra.utils import get_class, instantiate
from omegaconf import DictConfig, OmegaConf
from torch import nn

from lambdanets.config.strategies import trainer_strategy_options
from lambdanets.data import ImageData
from lambdanets.distributed.devices import check_devices
from lambdanets.error_messages import error_message
from lambdanets.errors import UserError
from lambdanets.tasks import Task

COMPILE_MODES = ("default", "reduce-overhead", "max-autotune", "max-autotune-no-cudagraphs")  # of torch.compile
GRAPH_MODES = ("reduce-overhead", "max-autotune")  # with CUDA graphs


class ImageSpec(NamedTuple):
    """The facts of the data that a model is built for.

    Attributes:
        channels: of the images.
        size: (H, W) of the images.
        classes: number of classes.
    """

    channels: int
    size: tuple[int, int]
    classes: int


def build_data(config: DictConfig) -> ImageData:
    """Return the data module of a config."""
    with explained_options("data"):
        return instantiate(config.data)


@contextmanager
def explained_options(group: str) -> Iterator[None]:
    """Turn an exception of an object that is built from options into a user's error.

    Args:
        group: the config groups that the options belong to.

    Raises:
        UserError: the object cannot be built from its options.
    """
    try:
        yield
    except Exception as error:
        if error_message(error) is not None:
            raise
        reason = " ".join(f"{type(error).__name__}: {error}".split())[:300]
        raise UserError(
            f"The options of {group} fit no such object ({reason}): check those that you set; HYDRA_FULL_ERROR=1 shows "
            "where it failed."
        ) from error


def image_spec(config: DictConfig) -> ImageSpec:
    """Return the facts of a config's images without reading any; without a folder, the usual set of its kind counts."""
    settings = config.data.copy()
    if OmegaConf.is_missing(settings, "root"):
        settings.root = ""
    with explained_options("data"):
        data: ImageData = instantiate(settings)
    return ImageSpec(data.channels, data.image_size, data.count_classes() or data.USUAL_CLASSES)


def build_model(config: DictConfig, images: ImageSpec) -> nn.Module:
    """Return the model of a config with new weights, built for these images."""
    settings = config.model.copy()
    for part in (settings, settings.get("backbone") or {}):
        for weights in ("backbone_ckpt", "pretrained"):  # loaded by a training
            part.pop(weights, None)
    with explained_options("model and mixer"):
        return instantiate(settings)(
            instantiate(config.mixer), image_size=images.size, in_channels=images.channels, num_classes=images.classes
        )


def task_class(config: DictConfig) -> type[Task]:
    """Return the class of the config's task, without building the model."""
    return get_class(config.task._target_)


def build_task(config: DictConfig, data: ImageData, classes: list[str]) -> Task:
    """Return the task around the model, both built for the data; its weights are a function of the seed.

    Raises:
        UserError: the data are for another task.
    """
    check_numbers(config)
    pl.seed_everything(config.seed, workers=True, verbose=False)
    model = build_model(config, ImageSpec(data.channels, data.image_size, len(classes)))
    if config.compile:
        compile_model(config, model)
    with explained_options("task"):
        task: Task = instantiate(config.task)(model, num_classes=len(classes))
    if task.DATA_TASK != data.TASK:
        raise UserError(
            f"{type(data).__name__} is a data set for {data.TASK}, and the task needs one for {task.DATA_TASK}: choose "
            "another data=… or task=…."
        )
    return task


def compile_model(config: DictConfig, model: nn.Module) -> None:
    """Compile a model in the mode config.compile, when it is first called.

    Raises:
        UserError: the mode is unknown, or it captures CUDA graphs and the training can't be captured.
    """
    mode = "default" if config.compile is True else config.compile
    if mode not in COMPILE_MODES:
        raise UserError(f"compile={mode} is not known: choose true, false or one of {', '.join(COMPILE_MODES)}.")
    if mode in GRAPH_MODES and not task_class(config).STATIC_SHAPES:
        raise UserError(f"compile={mode} captures CUDA graphs, for which images differ in size here: set compile=true.")
    if mode in GRAPH_MODES and config.trainer.accumulate_grad_batches > 1:
        raise UserError(
            f"compile={mode} captures CUDA graphs, whose gradients each batch overwrites: set "
            "trainer.accumulate_grad_batches=1, or compile=true."
        )
    model.compile(mode=mode)


def build_trainer(config: DictConfig, *, plugins: Sequence[Any] = (), **options: Any) -> pl.Trainer:
    """Return Lightning's trainer.

    Args:
        config: the run's config.
        plugins: the job's plugins of the trainer.
        **options: the job's arguments, such as loggers and callbacks.

    Raises:
        UserError: the machine lacks the devices that are asked for, or an option is unsupported.
    """
    check_devices(config.trainer)
    check_batches(config.trainer)
    # cuDNN tries its algorithms, which pays if all batches have one shape; each run may choose others.
    benchmark = task_class(config).STATIC_SHAPES and not config.trainer.deterministic
    strategy_options = trainer_strategy_options(config, plugins)
    with explained_options("trainer"):
        return instantiate(config.trainer)(
            benchmark=config.trainer.get("benchmark", benchmark),
            **strategy_options,
            enable_checkpointing=False,  # job=fit has its own callback
            use_distributed_sampler=False,  # data modules shard their own splits
            num_sanity_val_steps=0,
            enable_model_summary=False,
            **options,
        )


def check_batches(trainer: DictConfig) -> None:
    """Check the numbers of batches of a trainer's config.

    Raises:
        UserError: there are no batches to train on, or Lightning should make batches of its own.
    """
    if trainer.get("overfit_batches"):
        raise UserError(
            "trainer.overfit_batches replaces the batches of the data by batches without augmentation, which is not "
            f"supported: set trainer.limit_train_batches={trainer.overfit_batches} and a smaller data set."
        )
    if trainer.limit_train_batches == 0:
        raise UserError("trainer.limit_train_batches=0 leaves nothing to train on: set 1 or more, or a fraction.")


def check_numbers(config: DictConfig) -> None:
    """Check the numbers that every run needs.

    Raises:
        UserError: one of them is no number, or too small or large.
    """
    for key, kind, least in (
        ("seed", int, 0),
        ("trainer.max_epochs", int, 1),
        ("recipe.batch_size", int, 1),
        ("recipe.optimizer.lr", float, 0.0),
    ):
        value = OmegaConf.select(config, key)
        if not isinstance(value, (int, kind)) or isinstance(value, bool) or not least <= value < math.inf:
            noun = "a whole number" if kind is int else "a number"
            raise UserError(f"{key}={value} must be {noun} of at least {least}.")
    if config.seed >= 2**32:
        raise UserError(f"seed={config.seed} must be less than {2**32}.")
