"""job=find_batch_size: find the largest batch size that fits into memory."""

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
from lambdanets.machine import available_memory
from lambdanets.runs.folders import write_metrics

log = logging.getLogger(__name__)
CPU = torch.device("cpu")
STEPS_PER_TRIAL = 3  # optimizers allocate their states in the first one


def run(config: DictConfig, folder: Path) -> dict[str, float]:
    """Run training steps with growing batches until the memory is full or the training set is used up.

    Args:
        config: resolved config.
        folder: output folder for metrics.json.

    Returns:
        The batch size, and the learning rate for it by the recipe's scaling rule on one device.

    Raises:
        UserError: the config asks for several processes, or not even one image fits.
    """
    silence_lightning()
    if config.trainer.devices != 1 or config.trainer.num_nodes != 1:
        raise UserError(
            f"job=find_batch_size supports one device only, but trainer.devices={config.trainer.devices} and "
            f"trainer.num_nodes={config.trainer.num_nodes}: set both to 1."
        )
    config.trainer.enable_progress_bar = False
    data = build_data(config)
    data.prepare_data()
    data.setup("fit")
    task = build_task(config, data, data.classes)
    trainer = build_trainer(config, default_root_dir=folder, logger=False)
    job = config.job
    if trainer.strategy.root_device.type == "cpu":
        CPUMemoryLimit(job.memory_gib).attach(task)
    batch_size: int | None = 0
    try:
        batch_size = Tuner(trainer).scale_batch_size(
            task,
            datamodule=data,
            mode=job.mode,
            steps_per_trial=STEPS_PER_TRIAL,
            init_val=job.initial_batch_size,
            max_val=job.max_batch_size,
        )
    except UserError:
        if data.batch_size > 0:  # at 0, the tuner has halved the batch until nothing was left
            raise
    if not batch_size:
        raise UserError("Not even one image fits into memory: use a smaller model or image, or raise job.memory_gib.")
    metrics: dict[str, float] = {"batch_size": batch_size}
    learning_rate, reference_batch = config.recipe.optimizer.lr, config.recipe.lr_batch
    if reference_batch is not None:
        metrics["lr"] = learning_rate * batch_size * config.trainer.accumulate_grad_batches / reference_batch
    write_metrics(folder, metrics)
    print_metrics(metrics, title=f"{config.name}: largest batch size of one device, and the learning rate for it")
    log.info("Train with recipe.batch_size=%d", batch_size)
    return metrics


class CPUMemoryLimit:
    """Stop a trial on a CPU before it uses more memory than the limit.

    The system would kill the process without an error. The memory of a step grows linearly with the batch, so a batch
    that is expected to exceed the limit fails as if it had run out of memory.

    Args:
        gib: memory that trials may add to that in use, or None for 90 % of the memory available.

    Raises:
        UserError: the system does not report its available memory.
    """

    OUT_OF_MEMORY = "DefaultCPUAllocator: can't allocate memory"  # the message that Lightning's tuner recognizes

    def __init__(self, gib: float | None) -> None:
        if gib is None:
            available = available_memory()
            if available is None:
                raise UserError("This system does not report its available memory: set job.memory_gib.")
            gib = 0.9 * available / 2**30
        self.limit = peak_memory_bytes(CPU) + gib * 2**30
        self.peaks: dict[int, int] = {}  # from batch size to peak memory in bytes

    def attach(self, task: pl.LightningModule) -> None:
        """Check the memory at each training step of a task."""
        hooks: Any = task
        hooks.on_train_batch_start, hooks.on_train_batch_end = self.check, self.record

    def check(self, batch: tuple[Tensor, Tensor], batch_idx: int) -> None:
        if self.predicted_peak(len(batch[0])) > self.limit:
            raise RuntimeError(self.OUT_OF_MEMORY)

    def record(self, outputs: Any, batch: tuple[Tensor, Tensor], batch_idx: int) -> None:
        self.peaks[len(batch[0])] = peak_memory_bytes(CPU)

    def predicted_peak(self, images: int) -> float:
        """Return the peak memory in bytes of a batch, extrapolated from the two largest batches measured."""
        if len(self.peaks) < 2:
            return max(self.peaks.values(), default=0)
        (small_batch, small_peak), (large_batch, large_peak) = sorted(self.peaks.items())[-2:]
        bytes_per_image = (large_peak - small_peak) / (large_batch - small_batch)
        return large_peak + max(images - large_batch, 0) * bytes_per_image
