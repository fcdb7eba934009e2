"""job=fit: train, then test the best checkpoint."""

import filecmp
import logging
import math
import os
import shlex
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any, NamedTuple

import pytorch_lightning as pl
import torch
from hydra.utils import instantiate
from omegaconf import DictConfig, OmegaConf
from pytorch_lightning.loggers import Logger
from pytorch_lightning.utilities.exceptions import SIGTERMException

from lambdanets.atomic import atomic_copy, atomic_write, corruption
from lambdanets.callbacks import (
    CheckpointWriter,
    EndOnSignal,
    HParams,
    MovingAverage,
    NonFiniteGuard,
    ProgressBar,
    StopOnSignal,
)
from lambdanets.config.build import build_data, build_task, build_trainer, explained_options
from lambdanets.config.keys import COMMAND_KEYS, NETWORK_KEYS, is_key_in
from lambdanets.config.overrides import changed_keys
from lambdanets.console import print_metrics, print_next_steps, program_name, silence_lightning
from lambdanets.data import ImageData
from lambdanets.data.corrupt import count_corrupt_images
from lambdanets.distributed.requeue import exit_after_signal
from lambdanets.errors import UserError
from lambdanets.hub.pretrained import load_pretrained
from lambdanets.runs import provenance
from lambdanets.runs.checkpoints import (
    AtomicCheckpointIO,
    RunInCheckpoint,
    check_classes,
    check_state_dict,
    load_weights,
    read_checkpoint,
)
from lambdanets.runs.csv_logger import ResumableCSVLogger
from lambdanets.runs.folders import (
    CHECKPOINTS,
    METRICS,
    UNRESOLVED_CONFIG,
    last_checkpoint,
    load_config,
    owner_run,
    read_json,
    rename_damaged,
    rename_results,
    set_earlier_run_aside,
    write_metrics,
)
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
    with restored_corrupt_list(folder):
        return train_and_test(config, folder)


def train_and_test(config: DictConfig, folder: Path) -> dict[str, float]:
    """Train and test as `run` says."""
    training = build_training(config, folder)
    trainer, task, data, checkpoints = training.trainer, training.task, training.data, training.checkpoints
    stored = None if training.start.remaining_epochs else finished_metrics(config, folder)
    if stored is not None:
        provenance.drop_pending_start()
        log.info(
            "%s has finished its %d epochs: nothing is left to do. Train it further with trainer.max_epochs=<more>.",
            os.path.relpath(folder),
            config.trainer.max_epochs,
        )
        return stored
    data.check_test_split()
    parameters = sum(parameter.numel() for parameter in task.parameters())
    run_path = os.path.relpath(folder)
    quoted = shlex.quote(run_path)
    log.info("%s: %.3f M parameters, in %s", config.name, parameters / 1e6, run_path)

    try:
        trainer.fit(task, datamodule=data, ckpt_path=config.ckpt, weights_only=True)
    except SIGTERMException:
        signal_name = training.stop.signal_name
        log.info("Stopped by %s after step %d; resume with ckpt=%s", signal_name, trainer.global_step, quoted)
        exit_after_signal(training.stop)
    if trainer.is_global_zero:
        provenance.record_pending_start(training_gpus(trainer))  # if no epoch was left
    seconds = training.start.seconds
    images_per_s = trainer.callback_metrics.get("speed/images_per_s")

    scores: dict[str, float] = {}
    if data.has_test:
        # Lightning would load the trained weights, not the averaged ones that a checkpoint holds beside them.
        tested = checkpoint_to_test(folder, checkpoints)
        load_weights(task, read_checkpoint(tested)["state_dict"])
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
                "view": f"tensorboard --logdir {quoted}",
                "predict": f"{program_name()} job=predict ckpt={quoted} input=<image>",
                "export": f"{program_name()} job=export ckpt={quoted} format=onnx",
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
    start: "TrainingStart"


class TrainingStart(pl.Callback):
    """Record the start of a run when its training begins, which no check can refuse any more, and count its seconds.

    It comes first in the trainer's list: before it, nothing is written into the run's folder.

    Args:
        folder: of the run.
        ckpt: the checkpoint that the run resumes from, or None.
        epochs: epochs of the whole training.
        finished_epochs: those of them that the checkpoint has behind it.
    """

    def __init__(self, folder: Path, ckpt: str | None, *, epochs: int, finished_epochs: int) -> None:
        self.folder = folder
        self.ckpt = ckpt
        self.remaining_epochs = epochs - finished_epochs
        self.earlier_seconds = 0.0
        self.start_time: float | None = None
        self.end_time: float | None = None

    @property
    def seconds(self) -> float:
        """Seconds of training, over all starts of the run as far as its checkpoints go."""
        if self.start_time is None:
            return self.earlier_seconds
        return self.earlier_seconds + (self.end_time or time.perf_counter()) - self.start_time

    def on_train_start(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        if self.ckpt is not None:
            check_steps_per_epoch(trainer)
        self.start_time = time.perf_counter()
        if trainer.is_global_zero:
            goes_on = is_of_run(self.ckpt, self.folder)
            if not goes_on:
                set_earlier_run_aside(self.folder)
            provenance.record_pending_start(training_gpus(trainer))
            rename_results(self.folder)
            checkpoints = self.folder / CHECKPOINTS
            if self.ckpt is not None and not goes_on:
                atomic_copy(Path(self.ckpt), checkpoints / "last.ckpt")  # a kill before the first one would lose it
            rename_damaged(checkpoints)

    def on_train_end(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        self.end_time = time.perf_counter()

    def state_dict(self) -> dict[str, Any]:
        return {"seconds": self.seconds}

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        self.earlier_seconds = state_dict["seconds"]


def is_of_run(ckpt: str | None, folder: Path) -> bool:
    """Return whether a training goes on from a checkpoint of the run in its own folder, or from a copy of the last."""
    if ckpt is None:
        return False
    file, checkpoints = Path(ckpt).resolve(), (folder / CHECKPOINTS).resolve()  # which may be a link to elsewhere
    last = checkpoints / "last.ckpt"
    is_copy = owner_run(file) == folder.resolve() and (not last.is_file() or filecmp.cmp(file, last, shallow=False))
    return file.parent == checkpoints or is_copy


def training_gpus(trainer: pl.Trainer) -> str | None:
    """Return the number and the name of the GPUs that a trainer works on, or None for processors."""
    device = trainer.strategy.root_device
    if device.type != "cuda":
        return None
    name = torch.cuda.get_device_name(device)
    return name if trainer.world_size == 1 else f"{trainer.world_size} × {name}"


def check_steps_per_epoch(trainer: pl.Trainer) -> None:
    """Check that a run that resumes has as many steps per epoch as before: its checkpoint lies between two of them.

    Raises:
        UserError: it has another number, or trainer.max_steps ended the run within an epoch.
    """
    loop = trainer.fit_loop
    batches = loop.epoch_loop.batch_progress
    within = 0 if batches.is_last_batch else -(-batches.current.completed // trainer.accumulate_grad_batches)
    steps_per_epoch = math.ceil(trainer.num_training_batches / trainer.accumulate_grad_batches)
    finished_epochs: int = loop.epoch_progress.current.processed  # type: ignore[attr-defined]
    if within and trainer.global_step == (finished_epochs - 1) * steps_per_epoch + within:
        raise UserError(
            f"trainer.max_steps ended the run after {within} of the {steps_per_epoch} steps of an epoch, so it can't "
            f"go on. Start a new run with base_run=; with a multiple of {steps_per_epoch} as trainer.max_steps, that "
            "one can be trained further."
        )
    if trainer.global_step != finished_epochs * steps_per_epoch + within:
        raise UserError(
            f"The run made {trainer.global_step} steps in {finished_epochs} epochs and {within} steps of the next one, "
            f"and would go on with {steps_per_epoch} steps per epoch. Leave the training images, recipe.batch_size, "
            "trainer.accumulate_grad_batches and trainer.limit_train_batches as they were, and keep the product of "
            "batch size and processes; or start a new run with base_run=."
        )


@contextmanager
def restored_corrupt_list(folder: Path) -> Iterator[None]:
    """Restore a run's corrupt.txt if the command is refused before its training begins."""
    file = folder / CORRUPT
    is_run = (folder / UNRESOLVED_CONFIG).is_file()
    former = file.read_bytes() if file.is_file() else None
    try:
        yield
    except UserError:
        if is_run and provenance.pending_starts and (file.read_bytes() if file.is_file() else None) != former:
            file.unlink() if former is None else atomic_write(file, former)
        raise


def finished_metrics(config: DictConfig, folder: Path) -> dict[str, float] | None:
    """Return the results of a run without epochs left, or None if its test is missing.

    Raises:
        UserError: the command sets something that only a further epoch could apply, or the checkpoint is another
            run's, whose training is over.
    """
    if owner_run(Path(config.ckpt)) != folder.resolve():
        raise UserError(
            f"The training of '{config.ckpt}' has finished its {config.trainer.max_epochs} epochs: train it further "
            f"with trainer.max_epochs=<more>, or test it with job=test ckpt={config.ckpt}."
        )
    changed = changed_keys(load_config(folder), provenance.unresolved_config(config, folder))
    ineffective = [key for key in changed if is_key_in(key, NETWORK_KEYS) and key != "recipe.epochs"]
    if ineffective:
        raise UserError(
            f"The run '{folder}' has finished its {config.trainer.max_epochs} epochs, so that {ineffective[0]} would "
            "have no effect: train further with trainer.max_epochs=<more>, or start a new run with base_run=."
        )
    return read_json(folder / METRICS)


def checkpoint_to_test(folder: Path, checkpoints: CheckpointWriter) -> Path:
    """Return the best checkpoint, or the newest one, without a score, if that is missing or damaged."""
    if checkpoints.best.is_file() and corruption(checkpoints.best) is None:
        return checkpoints.best
    newest = last_checkpoint(folder)
    if newest is None:
        raise UserError(f"The run '{folder}' has no checkpoint that could be tested: train it again.")
    log.warning("%s is missing or damaged: testing %s instead.", checkpoints.best, newest)
    checkpoints.best_score = None
    return newest


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
    if config.ckpt is not None:
        labels = read_checkpoint(config.ckpt, keep=config.trainer.strategy != "fsdp").get("labels", {})
        data.restore_classes(labels.get("classes", ()))
    data.setup("fit")
    task = build_task(config, data, data.classes)
    progress = check_resumed(config, task, data)
    start = TrainingStart(
        folder, config.ckpt, epochs=config.trainer.max_epochs, finished_epochs=progress.finished_epochs
    )
    if config.ckpt is None:
        initialize_weights(config, task)
    stop = StopOnSignal()
    checkpoints = CheckpointWriter(folder / CHECKPOINTS, task.MONITOR, **config.checkpoint)
    # The averaging callback comes last: at the end it replaces the weights that were trained.
    progress_bar = [ProgressBar()] if config.trainer.enable_progress_bar else []
    callbacks = [
        start,
        *build_callbacks(config, folder, data, task),
        *progress_bar,
        stop,
        EndOnSignal(),
        checkpoints,
        *build_averaging(config),
    ]
    trainer = build_trainer(
        config,
        plugins=[AtomicCheckpointIO()],
        default_root_dir=folder,
        logger=build_loggers(config, folder, progress.step if is_of_run(config.ckpt, folder) else 0),
        callbacks=callbacks,
    )
    return Training(trainer, task, data, checkpoints, stop, start)


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


class Progress(NamedTuple):
    """The part of a training that a checkpoint has behind it."""

    step: int = 0
    finished_epochs: int = 0


def check_resumed(config: DictConfig, task: pl.LightningModule, data: ImageData) -> Progress:
    """Check that a training can go on from config.ckpt, if there is one.

    Returns:
        The progress of the checkpoint.

    Raises:
        UserError: the checkpoint holds weights alone, does not match the model, was trained on other classes or with
            another optimizer, or has more epochs behind it than the config has.
    """
    if config.ckpt is None:
        return Progress()
    # Lightning reads it next, except under FSDP, where it reads the file by itself.
    checkpoint = read_checkpoint(config.ckpt, keep=config.trainer.strategy != "fsdp")
    if not {"global_step", "loops", "optimizer_states"} <= checkpoint.keys():
        raise UserError(
            f"'{config.ckpt}' holds weights without the state of a training, which cannot resume from it: start a new "
            f"training from them with model.pretrained={config.ckpt}."
        )
    check_classes(data.classes, checkpoint["labels"]["classes"], config.ckpt)
    check_state_dict(task, checkpoint["state_dict"], config.ckpt)
    finished_epochs = checkpoint["loops"]["fit_loop"]["epoch_progress"]["current"]["processed"]
    if finished_epochs > config.trainer.max_epochs:
        raise UserError(
            f"trainer.max_epochs={config.trainer.max_epochs} is less than the {finished_epochs} epochs that "
            f"'{config.ckpt}' has behind it: set at least {finished_epochs}."
        )
    log.info("resuming from %s, after step %d", os.path.relpath(config.ckpt), checkpoint["global_step"])
    return Progress(checkpoint["global_step"], finished_epochs)


def build_loggers(config: DictConfig, folder: Path, step: int) -> list[Logger]:
    """Return the loggers of TensorBoard, if the config has it, and of metrics.csv.

    Args:
        config: resolved.
        folder: output folder.
        step: of the run in this folder that goes on, else 0; later entries are cut off.
    """
    loggers: list[Logger] = []
    if config.logger:
        name = {"name": folder.name, "version": "", "default_hp_metric": False}
        # Entries that an earlier part of the run wrote after its checkpoint, or without any, are void.
        purge = {"purge_step": step} if any(folder.glob("events.out.tfevents.*")) else {}
        with explained_options("logger"):
            loggers.append(instantiate(config.logger)(folder.parent, **name, **purge))
    return [*loggers, ResumableCSVLogger(folder, step)]


def build_callbacks(config: DictConfig, folder: Path, data: ImageData, task: Task) -> list[pl.Callback]:
    """Return the callbacks of the config, and those that every training has."""
    with explained_options("callbacks"):
        callbacks: list[pl.Callback] = [instantiate(callback) for callback in (config.callbacks or {}).values()]
    excluded = {"callbacks", "logger", "sweep", *COMMAND_KEYS}
    settings = OmegaConf.masked_copy(config, [str(key) for key in config if key not in excluded])
    callbacks.append(HParams(OmegaConf.to_yaml(settings), flatten(settings), task.SCORES))
    composed: Any = OmegaConf.to_container(provenance.unresolved_config(config, folder))
    callbacks.append(RunInCheckpoint(composed, data.describe_labels()))
    callbacks.append(NonFiniteGuard(skip=config.recipe.skip_nonfinite))
    return callbacks


def build_averaging(config: DictConfig) -> list[pl.Callback]:
    """Return the callback that averages the weights, if the recipe asks for it."""
    decay = config.recipe.ema_decay
    return [] if decay is None else [MovingAverage(decay)]
