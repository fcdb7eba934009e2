"""Randomness that a resumed run repeats."""

import pytorch_lightning as pl
import torch


class EpochSeed(pl.Callback):
    """Seeds torch's generators at the start of each epoch, from seed, epoch and process.

    Augmentation, dropout and stochastic depth of an epoch then don't depend on the epochs that the same process went
    through before it: a run that goes on from an epoch's end is the run that was never stopped. Each process of a
    distributed run augments its images in its own way.

    Args:
        seed: the run's.
    """

    def __init__(self, seed: int) -> None:
        self.seed = seed

    def on_train_epoch_start(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        torch.manual_seed((self.seed << 32) + (trainer.current_epoch << 12) + trainer.global_rank)
