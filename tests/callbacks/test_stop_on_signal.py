"""Stop requests between the steps of a training, and further signals after the first one."""

import os
import signal
from types import SimpleNamespace

import pytest
import pytorch_lightning as pl
import torch
from torch.utils.data import DataLoader, TensorDataset

from lambdanets.callbacks import EndOnSignal, StopOnSignal


@pytest.mark.parametrize("accumulated", [1, 2, 3, 4, 8])
def test_several_processes_stop_between_steps_within_a_few_batches(accumulated):
    stopped_after = []
    for signaled_at in range(16):
        callback = StopOnSignal()
        trainer = SimpleNamespace(
            world_size=2,
            accumulate_grad_batches=accumulated,
            is_last_batch=False,
            strategy=SimpleNamespace(reduce_boolean_decision=lambda decision, **options: decision),
            _signal_connector=SimpleNamespace(received_sigterm=False),
        )
        for batch_idx in range(40):
            if batch_idx == signaled_at:
                callback.caught = signal.SIGTERM
            callback.on_train_batch_end(trainer, None, None, None, batch_idx)
            if trainer._signal_connector.received_sigterm:
                break
        assert (batch_idx + 1) % accumulated == 0
        stopped_after.append(batch_idx - signaled_at)
    assert min(stopped_after) >= 0
    assert max(stopped_after) < max(StopOnSignal.SYNC_EVERY_BATCHES, accumulated) + accumulated


def exit_status(*signums):
    """Send signals to a forked process; return its exit code, or minus the signal that ended it."""
    child = os.fork()
    if child == 0:
        stop = StopOnSignal()
        for signum in set(signums):
            signal.signal(signum, stop.catch)
        for signum in signums:
            os.kill(os.getpid(), signum)
        os._exit(0 if stop.caught is signums[0] else 1)
    return os.waitstatus_to_exitcode(os.waitpid(child, 0)[1])


@pytest.mark.parametrize(
    "signums", [(signal.SIGTERM, signal.SIGTERM), (signal.SIGUSR1, signal.SIGTERM), (signal.SIGINT, signal.SIGTERM)]
)
def test_further_signals_do_not_interrupt_the_checkpoint(signums):
    assert exit_status(*signums) == 0


def test_a_second_ctrl_c_ends_the_process():
    assert exit_status(signal.SIGINT, signal.SIGINT) == -signal.SIGINT


class Signaled(pl.LightningModule):
    """A task that receives SIGTERM in its last batch."""

    def test_step(self, batch, batch_idx):
        os.kill(os.getpid(), signal.SIGTERM)

    def predict_step(self, batch, batch_idx):
        os.kill(os.getpid(), signal.SIGTERM)


@pytest.mark.parametrize("job", ["test", "predict"])
def test_a_signal_ends_a_test_and_a_prediction_with_its_exit_code(job, tmp_path):
    trainer = pl.Trainer(
        accelerator="cpu", logger=False, callbacks=[EndOnSignal()], enable_checkpointing=False,
        enable_progress_bar=False, enable_model_summary=False, default_root_dir=tmp_path,
    )  # fmt: skip
    with pytest.raises(SystemExit) as error:
        getattr(trainer, job)(Signaled(), DataLoader(TensorDataset(torch.ones(1, 1))))
    assert error.value.code == 128 + signal.SIGTERM
    assert signal.getsignal(signal.SIGTERM) == signal.SIG_DFL


def test_a_handler_that_was_there_before_comes_first(tmp_path):
    seen = []
    former = signal.signal(signal.SIGTERM, lambda *args: seen.append(args))
    try:
        trainer = pl.Trainer(
            accelerator="cpu", logger=False, callbacks=[EndOnSignal()], enable_checkpointing=False,
            enable_progress_bar=False, enable_model_summary=False, default_root_dir=tmp_path,
        )  # fmt: skip
        trainer.test(Signaled(), DataLoader(TensorDataset(torch.ones(1, 1))), verbose=False)
    finally:
        signal.signal(signal.SIGTERM, former)
    assert len(seen) == 1
