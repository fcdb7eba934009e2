"""Trace of some training steps."""

import logging
import os
from pathlib import Path
from typing import Any

import pytorch_lightning as pl
import torch
from torch.profiler import ProfilerActivity, profile, schedule

from lambdanets.callbacks.budgeted_visualization import find_writer

log = logging.getLogger(__name__)


class Profiler(pl.Callback):
    """Profile training steps with torch.profiler on rank 0, and write to the run's folder profile/.

    The files are trace.json, for chrome://tracing or ui.perfetto.dev, and operators.txt, a table of the operators that
    take most time, which TensorBoard's text tab has too.

    Args:
        wait: steps before the profiled ones, in which memory is allocated and models are compiled.
        steps: profiled steps.
        table_rows: rows of the table.
    """

    def __init__(self, wait: int = 10, steps: int = 5, table_rows: int = 40) -> None:
        self.wait = wait
        self.steps = steps
        self.table_rows = table_rows
        self.profile: profile | None = None

    def on_train_start(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        if not trainer.is_global_zero:
            return
        activities = [ProfilerActivity.CPU] + [ProfilerActivity.CUDA] * (pl_module.device.type == "cuda")
        self.profile = profile(
            activities=activities,
            schedule=schedule(wait=self.wait, warmup=1, active=self.steps, repeat=1),
            on_trace_ready=lambda result: self.write(result, trainer),
            profile_memory=True,
        )
        self.profile.__enter__()

    def on_train_batch_end(
        self, trainer: pl.Trainer, pl_module: pl.LightningModule, outputs: Any, batch: Any, batch_idx: int
    ) -> None:
        if self.profile is not None:
            self.profile.step()

    def on_train_end(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        self.close()

    def on_exception(self, trainer: pl.Trainer, pl_module: pl.LightningModule, exception: BaseException) -> None:
        self.close()

    def close(self) -> None:
        if self.profile is not None:
            self.profile.__exit__(None, None, None)
            self.profile = None

    def write(self, result: profile, trainer: pl.Trainer) -> None:
        folder = Path(trainer.default_root_dir) / "profile"
        folder.mkdir(parents=True, exist_ok=True)
        result.export_chrome_trace(str(folder / "trace.json"))
        sort_by = "self_cuda_time_total" if torch.cuda.is_available() else "self_cpu_time_total"
        table = result.key_averages().table(sort_by=sort_by, row_limit=self.table_rows)
        (folder / "operators.txt").write_text(table, encoding="utf-8")
        if (writer := find_writer(trainer)) is not None:
            writer.add_text("profile", "```\n" + table + "\n```", trainer.global_step)
        log.info("Profiled %d steps: %s", self.steps, os.path.relpath(folder))
