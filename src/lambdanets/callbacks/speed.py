"""Images per second and peak memory."""

import contextlib
import resource
import sys
import time
from pathlib import Path
from typing import Any

import pytorch_lightning as pl
import torch

GIB = 2**30


class Speed(pl.Callback):
    """Logs, for each epoch, speed/images_per_s over all processes and speed/peak_memory_gib of this one.

    The rate counts training batches only, from the arrival of one batch to that of the next, without validation and
    checkpoints. The memory is what torch has allocated on a GPU, or the resident size of the process on a CPU, at most
    since training started.
    """

    def on_fit_start(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        reset_peak_memory(pl_module.device)

    def on_train_start(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        self.begin()  # a run that goes on from the middle of an epoch doesn't start it

    def on_train_epoch_start(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        self.begin()

    def begin(self) -> None:
        self.images = 0
        self.seconds = 0.0
        self.start = time.perf_counter()

    def on_train_batch_end(
        self, trainer: pl.Trainer, pl_module: pl.LightningModule, outputs: Any, batch: Any, batch_idx: int
    ) -> None:
        self.images += len(batch[0])
        if trainer.is_last_batch:
            if pl_module.device.type == "cuda":
                torch.cuda.synchronize(pl_module.device)
            self.seconds = time.perf_counter() - self.start

    def on_train_epoch_end(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        if self.seconds:
            rate = self.images * trainer.world_size / self.seconds
            pl_module.log("speed/images_per_s", rate, rank_zero_only=True)
        pl_module.log("speed/peak_memory_gib", peak_memory(pl_module.device) / GIB, rank_zero_only=True)


def reset_peak_memory(device: torch.device) -> None:
    """Lets the peak start from what is held now, so that a sweep's runs in one process don't see one another's."""
    if device.type == "cuda":
        torch.cuda.reset_peak_memory_stats(device)
        return
    with contextlib.suppress(OSError):  # elsewhere than on Linux the peak is that of the whole process
        Path("/proc/self/clear_refs").write_text("5")


def peak_memory(device: torch.device) -> int:
    """Bytes: allocated at most on a GPU since the reset, or resident at most in this process."""
    if device.type == "cuda":
        return torch.cuda.max_memory_allocated(device)
    with contextlib.suppress(OSError, StopIteration):
        # Linux's ru_maxrss also holds what the process was before exec: a large parent's memory.
        lines = Path("/proc/self/status").read_text().splitlines()
        return int(next(line for line in lines if line.startswith("VmHWM:")).split()[1]) * 1024
    kilobytes = 1 if sys.platform == "darwin" else 1024  # ru_maxrss is in bytes on macOS, in KiB on Linux
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * kilobytes
