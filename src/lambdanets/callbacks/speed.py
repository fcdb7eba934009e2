"""Throughput and peak memory."""

import contextlib
import resource
import sys
import time
from pathlib import Path
from typing import Any

import pytorch_lightning as pl
import torch

from lambdanets.callbacks.checkpoint_writer import CheckpointWriter

GIB = 2**30


class Speed(pl.Callback):
    """Log per epoch speed/images_per_s over all processes, and speed/peak_memory_gib of this process.

    The throughput covers training batches, with the time to load them, and neither validation nor checkpoints. The
    memory is the peak since training started: allocated by torch on a GPU, or resident in the process on a CPU.
    """

    def on_fit_start(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        reset_peak_memory(pl_module.device)

    def on_train_start(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        self.start_epoch(trainer)  # a run resumed within an epoch has no on_train_epoch_start

    def on_train_epoch_start(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        self.start_epoch(trainer)

    def start_epoch(self, trainer: pl.Trainer) -> None:
        self.images = 0
        self.seconds = 0.0
        self.start_time = time.perf_counter()
        self.pause_start: float | None = None
        self.earlier_saving = seconds_of_checkpoints(trainer)

    def on_validation_start(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        self.pause_start = time.perf_counter()

    def on_train_batch_start(
        self, trainer: pl.Trainer, pl_module: pl.LightningModule, batch: Any, batch_idx: int
    ) -> None:
        if self.pause_start is not None:  # a validation within the epoch, with what was drawn after it
            self.start_time += time.perf_counter() - self.pause_start
            self.pause_start = None

    def on_train_batch_end(
        self, trainer: pl.Trainer, pl_module: pl.LightningModule, outputs: Any, batch: Any, batch_idx: int
    ) -> None:
        self.images += len(batch[0])
        if trainer.is_last_batch:
            if pl_module.device.type == "cuda":
                torch.cuda.synchronize(pl_module.device)
            saving = seconds_of_checkpoints(trainer) - self.earlier_saving
            self.seconds = time.perf_counter() - self.start_time - saving

    def on_train_epoch_end(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        if self.seconds:
            images_per_s = self.images * trainer.world_size / self.seconds
            pl_module.log("speed/images_per_s", images_per_s, rank_zero_only=True)
        pl_module.log("speed/peak_memory_gib", peak_memory_bytes(pl_module.device) / GIB, rank_zero_only=True)


def seconds_of_checkpoints(trainer: pl.Trainer) -> float:
    """Return the seconds that a training has spent on writing checkpoints so far."""
    callbacks: list[pl.Callback] = trainer.callbacks  # type: ignore[attr-defined]
    return sum(callback.seconds for callback in callbacks if isinstance(callback, CheckpointWriter))


def reset_peak_memory(device: torch.device) -> None:
    """Restart the measurement of peak memory, so that runs in one process are measured apart from each other."""
    if device.type == "cuda":
        torch.cuda.reset_peak_memory_stats(device)
        return
    with contextlib.suppress(OSError):  # only Linux can reset the peak of a process
        Path("/proc/self/clear_refs").write_text("5", encoding="utf-8")


def peak_memory_bytes(device: torch.device) -> int:
    """Return the peak memory since the reset: allocated by torch on a GPU, or resident in this process on a CPU."""
    if device.type == "cuda":
        return torch.cuda.max_memory_allocated(device)
    with contextlib.suppress(OSError, StopIteration):
        # Linux's ru_maxrss includes the process before exec, which may be a large parent.
        lines = Path("/proc/self/status").read_text(encoding="utf-8").splitlines()
        return int(next(line for line in lines if line.startswith("VmHWM:")).split()[1]) * 1024
    unit = 1 if sys.platform == "darwin" else 1024  # ru_maxrss is in bytes on macOS, in KiB on Linux
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * unit
