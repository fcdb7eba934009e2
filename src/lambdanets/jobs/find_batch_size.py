"""job=find_batch_size: how many images fit into memory at once."""

import contextlib
import logging
from pathlib import Path
from typing import Any

import pytorch_lightning as pl
import torch
from omegaconf import DictConfig
from pytorch_lightning.tuner import Tuner
from torch import Tensor

from lambdanets.callbacks.speed import peak_memory_bytes
from lambdanets.config.build import build_data, build_task, build_trainer
from lambdanets.console import print_metrics, silence_lightning
from lambdanets.errors import UserError
from lambdanets.runs.folders import write_metrics

log = logging.getLogger(__name__)
CPU = torch.device("cpu")
STEPS = 3  # of a trial: optimisers allocate their states in the first one


def run(config: DictConfig, folder: Path) -> dict[str, float]:
    """Takes some training steps with ever larger batches until memory, or the data, are at an end.

    Args:
        config: resolved.
        folder: where metrics.json goes.

    Returns:
        The batch size, and the learning rate that the recipe's rule gives it on one device.

    Raises:
        UserError: several processes are asked for, or not even the first batch fits.
    """
    silence_lightning()
    if config.trainer.devices != 1 or config.trainer.num_nodes != 1:
        raise UserError("job=find_batch_size looks at one device, as each process has its own: use trainer.devices=1.")
    config.trainer.enable_progress_bar = False
    data = build_data(config)
    data.prepare_data()
    data.setup("fit")
    task = build_task(config, data, data.classes)
    trainer = build_trainer(config, default_root_dir=folder, logger=False)
    job = config.job
    if trainer.strategy.root_device.type == "cpu":
        CPUMemory(job.memory_gib).watch(task)
    found: int | None = 0
    try:
        found = Tuner(trainer).scale_batch_size(
            task,
            datamodule=data,
            mode=job.mode,
            steps_per_trial=STEPS,
            init_val=job.initial_batch_size,
            max_val=job.max_batch_size,
        )
    except UserError:
        if data.batch_size > 0:  # else the tuner has halved it that often
            raise
    if not found:
        raise UserError("Not even one image fits into memory: take a smaller model or image, or give more.")
    metrics: dict[str, float] = {"batch_size": found}
    rate, stated_for = config.recipe.optimizer.lr, config.recipe.lr_batch
    if stated_for is not None:
        metrics["lr"] = rate * found * config.trainer.accumulate_grad_batches / stated_for
    write_metrics(folder, metrics)
    print_metrics(metrics, title=f"{config.name}: largest batch size of one device, and the learning rate for it")
    log.info("Take it with recipe.batch_size=%d", found)
    return metrics


class CPUMemory:
    """Ends a trial on a CPU before it takes more than the machine has: a system ends the process then, with no error.

    What a step takes grows linearly with its images; a batch that would take more than is left is answered as if it had
    been tried and memory had been full.

    Args:
        gib: what trials may take, or None for nine tenths of what the machine has free.

    Raises:
        UserError: the system doesn't say what is free.
    """

    FULL = "DefaultCPUAllocator: can't allocate memory"  # as Lightning knows it

    def __init__(self, gib: float | None) -> None:
        self.most = peak_memory_bytes(CPU) + (0.9 * free_memory() if gib is None else gib * 2**30)
        self.taken: dict[int, int] = {}

    def watch(self, task: pl.LightningModule) -> None:
        """Looks at each step of a task."""
        hooks: Any = task
        hooks.on_train_batch_start, hooks.on_train_batch_end = self.before, self.after

    def before(self, batch: tuple[Tensor, Tensor], batch_idx: int) -> None:
        if self.expected(len(batch[0])) > self.most:
            raise RuntimeError(self.FULL)

    def after(self, outputs: Any, batch: tuple[Tensor, Tensor], batch_idx: int) -> None:
        self.taken[len(batch[0])] = peak_memory_bytes(CPU)

    def expected(self, images: int) -> float:
        """Bytes with a batch of that many images, from the last two that were tried."""
        if len(self.taken) < 2:
            return max(self.taken.values(), default=0)
        (fewer, less), (more, much) = sorted(self.taken.items())[-2:]
        return much + max(images - more, 0) * (much - less) / (more - fewer)


def free_memory() -> int:
    """Bytes that the machine can give to processes."""
    with contextlib.suppress(OSError, StopIteration):
        lines = Path("/proc/meminfo").read_text().splitlines()
        return int(next(line for line in lines if line.startswith("MemAvailable:")).split()[1]) * 1024
    raise UserError("This system doesn't say how much memory is free: give job.memory_gib.")
