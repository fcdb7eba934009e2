"""job=fit: trains, then tests the best checkpoint."""

import logging
import os
import time
from pathlib import Path
from typing import Any, NamedTuple

import pytorch_lightning as pl
from hydra.utils import instantiate
from omegaconf import DictConfig, OmegaConf
from pytorch_lightning.callbacks import EMAWeightAveraging
from pytorch_lightning.loggers import Logger
from pytorch_lightning.utilities.exceptions import SIGTERMException

from lambdanets.callbacks import CheckpointWriter, HParams, NonFiniteGuard, StopOnSignal
from lambdanets.config.build import build_data, build_task, build_trainer
from lambdanets.config.keys import COMMAND_KEYS
from lambdanets.console import print_metrics, print_next_steps, silence_lightning
from lambdanets.data import ImageData
from lambdanets.data.corrupt import count
from lambdanets.distributed.requeue import exit_after_signal
from lambdanets.errors import UserError
from lambdanets.hub.pretrained import load_pretrained
from lambdanets.runs.checkpoints import RunInCheckpoint, check_fits, load_weights, read_checkpoint
from lambdanets.runs.csv_logger import ResumableCSVLogger
from lambdanets.runs.folders import CHECKPOINTS, load_config, write_metrics
from lambdanets.tasks import Task

log = logging.getLogger(__name__)
# Images that can't be decoded, one a line.
CORRUPT = "corrupt.txt"


def run(config: DictConfig, folder: Path) -> dict[str, float]:
    """Trains until recipe.epochs, from the checkpoint config.ckpt if there is one, then tests the best checkpoint.

    The test split is read here, once, after the choice of the checkpoint by the validation split.

    Args:
        config: resolved.
        folder: where logs, checkpoints and metrics.json go.

    Returns:
        The best checkpoint's test and validation scores, the number of parameters, the seconds spent, images/s.
    """
    silence_lightning()
    training = prepare(config, folder)
    trainer, task, data, kept = training.trainer, training.task, training.data, training.kept
    parameters = sum(parameter.numel() for parameter in task.parameters())
    shown = os.path.relpath(folder)
    log.info("%s: %.3f M parameters, in %s", config.name, parameters / 1e6, shown)

    start = time.perf_counter()
    try:
        trainer.fit(task, datamodule=data, ckpt_path=config.ckpt, weights_only=True)
    except SIGTERMException:
        stopped = training.stop.signal_name
        log.info("Stopped by %s after step %d; go on with ckpt=%s", stopped, trainer.global_step, shown)
        exit_after_signal(training.stop)
    seconds = time.perf_counter() - start
    images_per_s = trainer.callback_metrics.get("speed/images_per_s")

    scores: dict[str, float] = {}
    if data.has_test:
        # Lightning's own loading would take the weights that are trained where averaged ones are kept beside them.
        load_weights(task, read_checkpoint(kept.best)["state_dict"])
        trainer.test(task, datamodule=data, verbose=False)
        scores = {name: value.item() for name, value in trainer.callback_metrics.items() if name.startswith("test/")}
    else:
        log.info("There is no test split: the run ends with its validation score.")
    if kept.best_score is not None:
        scores[kept.monitor] = kept.best_score
    metrics = scores | {"parameters": parameters, "epochs": trainer.current_epoch, "seconds": round(seconds, 2)}
    if images_per_s is not None:
        metrics["images_per_s"] = round(images_per_s.item(), 1)
    if skipped := count(folder / CORRUPT):
        metrics["corrupt_images"] = skipped
    if trainer.is_global_zero:
        write_metrics(folder, metrics)
        print_metrics(metrics, title=config.name)
        print_next_steps(
            {
                "run": shown,
                "best checkpoint": os.path.relpath(kept.best),
                "view": f"tensorboard --logdir {shown}",
                "predict": f"python run.py job=predict ckpt={shown} input=<image>",
                "export": f"python run.py job=export ckpt={shown} format=onnx",
            }
        )
        log.info("The run lies in %s", shown)
    return metrics


class Training(NamedTuple):
    """What takes part in a training."""

    trainer: pl.Trainer
    task: Task
    data: ImageData
    kept: CheckpointWriter
    stop: StopOnSignal


def prepare(config: DictConfig, folder: Path) -> Training:
    """Builds all of a training, which begins anew or goes on from config.ckpt.

    Args:
        config: resolved.
        folder: where logs and checkpoints go; it has the run's config.
    """
    data = build_data(config)
    data.corrupt.file = folder / CORRUPT
    data.prepare_data()
    data.setup("fit")
    task = build_task(config, data, data.classes)
    step = resumed_step(config, task)
    if config.ckpt is None:
        start_from(config, task)
    stop = StopOnSignal()
    kept = CheckpointWriter(folder / CHECKPOINTS, task.MONITOR, **config.checkpoint)
    # An averaging callback is the last: at the end it replaces the weights that were trained.
    trainer = build_trainer(
        config,
        default_root_dir=folder,
        logger=build_loggers(config, folder, step),
        callbacks=[*build_callbacks(config, folder, data, task), stop, kept, *build_averaging(config)],
    )
    return Training(trainer, task, data, kept, stop)


def start_from(config: DictConfig, task: Task) -> None:
    """Loads the weights that the config's model says a new run starts from.

    Raises:
        UserError: they don't fit, or are asked for in the place of another kind of model.
    """
    model: Any = task.model
    if OmegaConf.select(config, "model.backbone.pretrained") is not None:
        raise UserError("A detector's backbone starts from model.backbone_ckpt=…; leave model.backbone.pretrained out.")
    if (source := config.model.get("backbone_ckpt")) is not None:
        load_pretrained(model.get_submodule("backbone.body"), source, key="model.backbone_ckpt")
    if (source := config.model.get("pretrained")) is not None:
        load_pretrained(model, source, key="model.pretrained")


def resumed_step(config: DictConfig, task: pl.LightningModule) -> int:
    """Optimiser steps behind the checkpoint that the run goes on from, or 0.

    Raises:
        UserError: the checkpoint can't be used with this config.
    """
    if config.ckpt is None:
        return 0
    checkpoint = read_checkpoint(config.ckpt)
    check_fits(task, checkpoint["state_dict"], config.ckpt)
    log.info("going on from %s, after step %d", os.path.relpath(config.ckpt), checkpoint["global_step"])
    return checkpoint["global_step"]


def build_loggers(config: DictConfig, folder: Path, step: int) -> list[Logger]:
    """TensorBoard, unless the config leaves it out, and metrics.csv, both cut back to the step of a resumed run."""
    loggers: list[Logger] = []
    if config.logger:
        name = {"name": folder.name, "version": "", "default_hp_metric": False}
        # What an earlier part of the run wrote after its checkpoint, all of it if there is none, doesn't count.
        purge = {"purge_step": step} if any(folder.glob("events.out.tfevents.*")) else {}
        loggers.append(instantiate(config.logger)(folder.parent, **name, **purge))
    return [*loggers, ResumableCSVLogger(folder, step)]


def build_callbacks(config: DictConfig, folder: Path, data: ImageData, task: Task) -> list[pl.Callback]:
    callbacks: list[pl.Callback] = [instantiate(callback) for callback in (config.callbacks or {}).values()]
    resolved: Any = OmegaConf.to_container(config)
    hidden = {"callbacks", "logger", "sweep", *COMMAND_KEYS}
    callbacks.append(HParams({key: value for key, value in resolved.items() if key not in hidden}, task.SCORES))
    composed: Any = OmegaConf.to_container(load_config(folder))
    callbacks.append(RunInCheckpoint(composed, data.labels()))
    callbacks.append(NonFiniteGuard(skip=config.recipe.skip_nonfinite))
    return callbacks


def build_averaging(config: DictConfig) -> list[pl.Callback]:
    decay = config.recipe.ema_decay
    return [] if decay is None else [EMAWeightAveraging(decay=decay)]
