"""job=fit: train, then test the best checkpoint."""

import logging
import os
import time
from pathlib import Path
from typing import Any, NamedTuple

import pytorch_lightning as pl
from hydra.utils import instantiate
from omegaconf import DictConfig, OmegaConf
from pytorch_lightning.loggers import Logger
from pytorch_lightning.utilities.exceptions import SIGTERMException

from lambdanets.callbacks import CheckpointWriter, HParams, MovingAverage, NonFiniteGuard, ProgressBar, StopOnSignal
from lambdanets.config.build import build_data, build_task, build_trainer
from lambdanets.config.keys import COMMAND_KEYS
from lambdanets.console import print_metrics, print_next_steps, program_name, silence_lightning
from lambdanets.data import ImageData
from lambdanets.data.corrupt import count_corrupt_images
from lambdanets.distributed.requeue import exit_after_signal
from lambdanets.errors import UserError
from lambdanets.hub.pretrained import load_pretrained
from lambdanets.runs.checkpoints import (
    AtomicCheckpointIO,
    RunInCheckpoint,
    check_state_dict,
    load_weights,
    read_checkpoint,
)
from lambdanets.runs.csv_logger import ResumableCSVLogger
from lambdanets.runs.folders import CHECKPOINTS, load_config, write_metrics
from lambdanets.runs.sweeps import flatten
from lambdanets.tasks import Task

log = logging.getLogger(__name__)
# Names of images that cannot be decoded, one per line.
CORRUPT = "corrupt.txt"


def run(config: DictConfig, folder: Path) -> dict[str, float]:
    """Train until recipe.epochs, from the checkpoint config.ckpt if there is one, then test the best checkpoint.

    The validation split chooses the checkpoint; the test split is read once, after that.

    Args:
        config: resolved.
        folder: output folder of logs, checkpoints and metrics.json.

    Returns:
        The best checkpoint's test and validation scores, the number of parameters, seconds, and images per second.
    """
    silence_lightning()
    training = build_training(config, folder)
    trainer, task, data, checkpoints = training.trainer, training.task, training.data, training.checkpoints
    parameters = sum(parameter.numel() for parameter in task.parameters())
    run_path = os.path.relpath(folder)
    log.info("%s: %.3f M parameters, in %s", config.name, parameters / 1e6, run_path)

    start = time.perf_counter()
    try:
        trainer.fit(task, datamodule=data, ckpt_path=config.ckpt, weights_only=True)
    except SIGTERMException:
        signal_name = training.stop.signal_name
        log.info("Stopped by %s after step %d; resume with ckpt=%s", signal_name, trainer.global_step, run_path)
        exit_after_signal(training.stop)
    seconds = time.perf_counter() - start
    images_per_s = trainer.callback_metrics.get("speed/images_per_s")

    scores: dict[str, float] = {}
    if data.has_test:
        # Lightning would load the trained weights, not the averaged ones that a checkpoint holds beside them.
        load_weights(task, read_checkpoint(checkpoints.best)["state_dict"])
        trainer.test(task, datamodule=data, verbose=False)
        scores = {name: value.item() for name, value in trainer.callback_metrics.items() if name.startswith("test/")}
    else:
        log.info("There is no test split: the run ends with its validation score.")
    if checkpoints.best_score is not None:
        scores[checkpoints.monitor] = checkpoints.best_score
    metrics = scores | {"parameters": parameters, "epochs": trainer.current_epoch, "seconds": round(seconds, 2)}
    if images_per_s is not None:
        metrics["images_per_s"] = round(images_per_s.item(), 1)
    if corrupt_images := count_corrupt_images(folder / CORRUPT):
        metrics["corrupt_images"] = corrupt_images
    if trainer.is_global_zero:
        write_metrics(folder, metrics)
        print_metrics(metrics, title=config.name)
        print_next_steps(
            {
                "run": run_path,
                "best checkpoint": os.path.relpath(checkpoints.best),
                "view": f"tensorboard --logdir {run_path}",
                "predict": f"{program_name()} job=predict ckpt={run_path} input=<image>",
                "export": f"{program_name()} job=export ckpt={run_path} format=onnx",
            }
        )
        log.info("The run is stored in %s", run_path)
    return metrics


class Training(NamedTuple):
    """The objects of one training."""

    trainer: pl.Trainer
    task: Task
    data: ImageData
    checkpoints: CheckpointWriter
    stop: StopOnSignal


def build_training(config: DictConfig, folder: Path) -> Training:
    """Build the objects of a training, which starts anew or resumes from config.ckpt.

    Args:
        config: resolved.
        folder: output folder of logs and checkpoints; it holds the run's config.
    """
    if config.ckpt is None:
        check_initial_weights(config)
    data = build_data(config)
    data.corrupt.file = folder / CORRUPT
    data.prepare_data()
    data.setup("fit")
    task = build_task(config, data, data.classes)
    step = check_resumed_step(config, task)
    if config.ckpt is None:
        initialize_weights(config, task)
    stop = StopOnSignal()
    checkpoints = CheckpointWriter(folder / CHECKPOINTS, task.MONITOR, **config.checkpoint)
    # The averaging callback comes last: at the end it replaces the weights that were trained.
    progress_bar = [ProgressBar()] if config.trainer.enable_progress_bar else []
    callbacks = [
        *build_callbacks(config, folder, data, task),
        *progress_bar,
        stop,
        checkpoints,
        *build_averaging(config),
    ]
    trainer = build_trainer(
        config,
        plugins=[AtomicCheckpointIO()],
        default_root_dir=folder,
        logger=build_loggers(config, folder, step),
        callbacks=callbacks,
    )
    return Training(trainer, task, data, checkpoints, stop)


def check_initial_weights(config: DictConfig) -> None:
    """Check that a new training has the initial weights that its recipe is made for.

    A recipe without a choice of `recipe/start`, such as that of a run of an earlier version, is made for either.

    Raises:
        UserError: the recipe needs pretrained weights and there are none, it needs new weights and there are
            pretrained ones, or the batch norms of new weights are frozen.
    """
    source = config.model.get("backbone_ckpt") or config.model.get("pretrained")
    pretrained = OmegaConf.select(config, "recipe.start.pretrained")
    if pretrained is True and source is None and "backbone_ckpt" in config.model:
        raise UserError(
            "This recipe starts from pretrained weights, and none are given: set model.backbone_ckpt=<run or "
            "checkpoint>, or train from new weights with recipe/start=scratch."
        )
    if pretrained is False and source is not None:
        raise UserError(
            f"recipe/start=scratch starts from new weights, but model.backbone_ckpt={source} is given: leave it out, "
            "or choose recipe/start=pretrained."
        )
    if config.model.get("norm") == "frozen" and source is None:
        raise UserError(
            "recipe.norm=frozen keeps the batch norms of pretrained weights, and none are given: set "
            "model.backbone_ckpt=<run or checkpoint>, or recipe.norm=sync."
        )


def initialize_weights(config: DictConfig, task: Task) -> None:
    """Load the pretrained weights that the config's model names, if any.

    Raises:
        UserError: they do not match the model, or the key is for another kind of model.
    """
    model: Any = task.model
    if OmegaConf.select(config, "model.backbone.pretrained") is not None:
        raise UserError("model.backbone.pretrained is not used: give the backbone's weights as model.backbone_ckpt=….")
    if (source := config.model.get("backbone_ckpt")) is not None:
        load_pretrained(model.skeleton, source, key="model.backbone_ckpt")
    if (source := config.model.get("pretrained")) is not None:
        load_pretrained(model, source, key="model.pretrained")


def check_resumed_step(config: DictConfig, task: pl.LightningModule) -> int:
    """Return the optimizer steps of the checkpoint that the run resumes from, or 0.

    Raises:
        UserError: the checkpoint does not match the model.
    """
    if config.ckpt is None:
        return 0
    # Lightning reads it next, except under FSDP, where it reads the file by itself.
    checkpoint = read_checkpoint(config.ckpt, keep=config.trainer.strategy != "fsdp")
    check_state_dict(task, checkpoint["state_dict"], config.ckpt)
    log.info("resuming from %s, after step %d", os.path.relpath(config.ckpt), checkpoint["global_step"])
    return checkpoint["global_step"]


def build_loggers(config: DictConfig, folder: Path, step: int) -> list[Logger]:
    """Return the loggers of TensorBoard, if the config has it, and of metrics.csv, cut back to a resumed run's step."""
    loggers: list[Logger] = []
    if config.logger:
        name = {"name": folder.name, "version": "", "default_hp_metric": False}
        # Entries that an earlier part of the run wrote after its checkpoint, or without any, are void.
        purge = {"purge_step": step} if any(folder.glob("events.out.tfevents.*")) else {}
        loggers.append(instantiate(config.logger)(folder.parent, **name, **purge))
    return [*loggers, ResumableCSVLogger(folder, step)]


def build_callbacks(config: DictConfig, folder: Path, data: ImageData, task: Task) -> list[pl.Callback]:
    """Return the callbacks of the config, and those that every training has."""
    callbacks: list[pl.Callback] = [instantiate(callback) for callback in (config.callbacks or {}).values()]
    excluded = {"callbacks", "logger", "sweep", *COMMAND_KEYS}
    settings = OmegaConf.masked_copy(config, [str(key) for key in config if key not in excluded])
    callbacks.append(HParams(OmegaConf.to_yaml(settings), flatten(settings), task.SCORES))
    composed: Any = OmegaConf.to_container(load_config(folder))
    callbacks.append(RunInCheckpoint(composed, data.describe_labels()))
    callbacks.append(NonFiniteGuard(skip=config.recipe.skip_nonfinite))
    return callbacks


def build_averaging(config: DictConfig) -> list[pl.Callback]:
    """Return the callback that averages the weights, if the recipe asks for it."""
    decay = config.recipe.ema_decay
    return [] if decay is None else [MovingAverage(decay)]
