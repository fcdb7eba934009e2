"""python -m tests.simulated_training OVERRIDES: train on the simulated device, print the waits of each step as JSON."""

import json
import sys
import tempfile
from collections import Counter
from pathlib import Path

import pytorch_lightning as pl
import torch

from lambdanets.config import experiments
from lambdanets.jobs.fit import build_training
from lambdanets.runs import provenance
from tests.configs import composing
from tests.simulated_device import NAME, SimulatedDevice


class WaitCounter(pl.Callback):
    """The waits between the starts of two batches, by step."""

    def __init__(self):
        self.steps = []

    def on_train_batch_start(self, trainer, pl_module, batch, batch_idx):
        assert {t.device.type for t in (*pl_module.parameters(), *pl_module.buffers(), *batch)} == {NAME}
        SimulatedDevice.waits = Counter()
        self.steps.append(SimulatedDevice.waits)

    def on_train_end(self, trainer, pl_module):
        SimulatedDevice.waits = None


def main(overrides):
    counter = WaitCounter()
    with composing(), tempfile.TemporaryDirectory() as folder, SimulatedDevice():
        config = experiments.compose_config(
            ["trainer=cpu", "trainer.max_epochs=1", "trainer.limit_val_batches=0", *overrides]
        )
        provenance.record_start(Path(folder), config)
        training = build_training(config, Path(folder))
        strategy = training.trainer.strategy
        strategy._root_device, strategy.accelerator.setup_device = torch.device(NAME, 0), lambda device: None
        training.trainer.callbacks.insert(0, counter)
        training.trainer.fit(training.task, datamodule=training.data)
    steps = [[[count, *wait] for wait, count in waits.items()] for waits in counter.steps]
    print(json.dumps(steps))


if __name__ == "__main__":
    main(sys.argv[1:])
