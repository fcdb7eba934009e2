"""Short trainings in this process."""

from lambdanets.config import experiments
from lambdanets.jobs.fit import build_training
from lambdanets.runs import provenance
from tests.configs import composing
from tests.gpu.conftest import DEVICE


def prepare(folder, *overrides, ckpt=None):
    """Build the training of these overrides on the device, resumed from ckpt if it is given."""
    accelerator = "gpu" if DEVICE.type == "cuda" else "cpu"
    options = [f"trainer.accelerator={accelerator}", "trainer.enable_progress_bar=false", "trainer.log_every_n_steps=1"]
    with composing():
        config = experiments.compose_config(["model=tiny", *options, *overrides])
        provenance.record_start(folder, config)
        config.ckpt = ckpt
        return config, build_training(config, folder)


def fit(folder, *overrides, ckpt=None):
    """Train, and return the objects of the training."""
    config, training = prepare(folder, *overrides, ckpt=ckpt)
    training.trainer.fit(training.task, datamodule=training.data, ckpt_path=config.ckpt, weights_only=True)
    return training
