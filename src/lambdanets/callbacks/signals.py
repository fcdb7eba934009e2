"""Stopping in order when the system asks for it."""

import os
import signal
import threading
from types import FrameType
from typing import Any

import pytorch_lightning as pl


class StopOnSignal(pl.Callback):
    """On SIGTERM and Ctrl-C, and in a job of SLURM on SIGUSR1 and SIGUSR2, ends training after the step that runs.

    While an epoch is validated, it is ended first.

    All processes stop at the same step, with Lightning's SIGTERMException; the checkpoint is then written by
    `Checkpoints`. A second signal ends the process at once.
    """

    # Batches between two questions to the other processes, whether one of them was told to stop.
    ASK = 4

    def __init__(self) -> None:
        self.caught: signal.Signals | None = None
        self.replaced: dict[signal.Signals, Any] = {}

    @property
    def name(self) -> str:
        return "a signal" if self.caught is None else self.caught.name

    def on_train_start(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        if threading.current_thread() is not threading.main_thread():
            return
        wanted = [signal.SIGTERM, signal.SIGINT]
        if "SLURM_JOB_ID" in os.environ:
            wanted += [signal.SIGUSR1, signal.SIGUSR2]
        # Lightning has put its own handlers there by now, and puts back those before them at the end.
        self.replaced = {number: signal.signal(number, self.catch) for number in wanted}

    def catch(self, number: int, frame: FrameType | None) -> None:
        if self.caught is not None:
            signal.signal(number, signal.SIG_DFL)
            os.kill(os.getpid(), number)
        self.caught = signal.Signals(number)

    def on_train_batch_end(
        self, trainer: pl.Trainer, pl_module: pl.LightningModule, outputs: Any, batch: Any, batch_idx: int
    ) -> None:
        # After an epoch's last batch comes validation, which Lightning would break off with nothing saved.
        between_steps = (batch_idx + 1) % trainer.accumulate_grad_batches == 0 and not trainer.is_last_batch
        asked = trainer.world_size == 1 or batch_idx % self.ASK == 0
        if asked and self.told(trainer) and between_steps:
            self.stop(trainer)

    def on_train_epoch_end(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        if self.told(trainer):
            self.stop(trainer)

    def told(self, trainer: pl.Trainer) -> bool:
        """Was one of the processes told to stop?"""
        told = self.caught is not None
        return trainer.strategy.reduce_boolean_decision(told, all=False) if trainer.world_size > 1 else told

    def stop(self, trainer: pl.Trainer) -> None:
        """Lightning raises its exception as soon as the step is logged, or the epoch is over."""
        trainer._signal_connector.received_sigterm = True

    def teardown(self, trainer: pl.Trainer, pl_module: pl.LightningModule, stage: str) -> None:
        for number, handler in self.replaced.items():
            if signal.getsignal(number) == self.catch:
                signal.signal(number, handler)
