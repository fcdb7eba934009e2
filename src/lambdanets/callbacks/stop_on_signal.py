"""Orderly stop of a training on a signal, and the end of a test."""

import logging
import math
import os
import signal
import threading
from types import FrameType
from typing import Any, NoReturn

import pytorch_lightning as pl

log = logging.getLogger(__name__)


class StopOnSignal(pl.Callback):
    """End training after the current step on SIGTERM and Ctrl-C, in a SLURM job also on SIGUSR1 and SIGUSR2.

    During validation, the epoch is completed first. All processes stop at the same step with Lightning's
    SIGTERMException; `CheckpointWriter` then writes the checkpoint. A second Ctrl-C ends the process at once.
    """

    # Batches between two exchanges between the processes of a job, which cost a collective operation each.
    SYNC_EVERY_BATCHES = 4

    def __init__(self) -> None:
        self.caught: signal.Signals | None = None
        self.previous_handlers: dict[signal.Signals, Any] = {}

    @property
    def signal_name(self) -> str:
        """Name of the signal that this process received; another process may have received it instead."""
        return "a signal" if self.caught is None else self.caught.name

    def on_train_start(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        if threading.current_thread() is not threading.main_thread():
            return
        signals = [signal.SIGTERM, signal.SIGINT]
        if "SLURM_JOB_ID" in os.environ:
            signals += [signal.SIGUSR1, signal.SIGUSR2]
        # Lightning has installed its own handlers before this hook, and restores the earlier ones at the end.
        self.previous_handlers = {signum: signal.signal(signum, self.catch) for signum in signals}

    def catch(self, signum: int, frame: FrameType | None) -> None:
        """Record the first signal; a further Ctrl-C gets the system's default action.

        Further signals of other kinds are ignored: SLURM sends SIGTERM twice, by slurmstepd and by srun, and a
        preempted job may have got SIGUSR1 before.
        """
        if self.caught is None:
            self.caught = signal.Signals(signum)
        elif signum == signal.SIGINT:
            signal.signal(signum, signal.SIG_DFL)
            os.kill(os.getpid(), signum)

    def on_train_batch_end(
        self, trainer: pl.Trainer, pl_module: pl.LightningModule, outputs: Any, batch: Any, batch_idx: int
    ) -> None:
        # Validation follows an epoch's last batch; Lightning would abort it with nothing saved.
        step, left_over = divmod(batch_idx + 1, trainer.accumulate_grad_batches)
        between_steps = left_over == 0 and not trainer.is_last_batch
        every = math.ceil(self.SYNC_EVERY_BATCHES / trainer.accumulate_grad_batches)
        synced = trainer.world_size == 1 or (step - 1) % every == 0
        if between_steps and synced and self.stop_requested(trainer):
            self.stop(trainer)

    def on_train_epoch_end(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        if self.stop_requested(trainer):
            self.stop(trainer)

    def stop_requested(self, trainer: pl.Trainer) -> bool:
        """Return whether any process has received a signal; all processes must call this together."""
        caught = self.caught is not None
        return trainer.strategy.reduce_boolean_decision(caught, all=False) if trainer.world_size > 1 else caught

    def stop(self, trainer: pl.Trainer) -> None:
        """Make Lightning raise its SIGTERMException after the step is logged, or after the epoch."""
        trainer._signal_connector.received_sigterm = True

    def teardown(self, trainer: pl.Trainer, pl_module: pl.LightningModule, stage: str) -> None:
        for signum, handler in self.previous_handlers.items():
            if signal.getsignal(signum) == self.catch:
                signal.signal(signum, handler)


class EndOnSignal(pl.Callback):
    """End the process at once on SIGTERM during a test or a prediction, which have nothing to save.

    Lightning would end a test without an error, and a prediction not at all. A handler that was there before, such as
    that of a SLURM job, comes first.
    """

    def on_test_start(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        self.take_over(trainer)

    def on_predict_start(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        self.take_over(trainer)

    def take_over(self, trainer: pl.Trainer) -> None:
        """Replace Lightning's handler, until Lightning restores the former one at the end."""
        if threading.current_thread() is threading.main_thread():
            former: Any = trainer._signal_connector._original_handlers.get(signal.SIGTERM)
            signal.signal(signal.SIGTERM, former if callable(former) else end)


def end(signum: int, frame: FrameType | None) -> NoReturn:
    """End the process with the signal's exit code."""
    log.info("Stopped by %s.", signal.Signals(signum).name)
    raise SystemExit(128 + signum)
