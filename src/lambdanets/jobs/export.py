"""job=export: a run's weights for others."""

import logging
import os
from pathlib import Path

from omegaconf import DictConfig

from lambdanets.errors import UserError
from lambdanets.jobs.checkpoints import WEIGHTS, read_checkpoint, write_weights
from lambdanets.jobs.runs import write_metrics

log = logging.getLogger(__name__)


def run(config: DictConfig, folder: Path) -> dict[str, float]:
    """Writes the weights of the checkpoint config.ckpt as model.safetensors, a format that can't hold code.

    The file knows its config and classes: `ckpt=<file>` tests it and predicts with it like a checkpoint.

    Args:
        config: resolved.
        folder: where the file goes.

    Returns:
        The number of weights.

    Raises:
        UserError: no checkpoint is named, or it can't be read.
    """
    if config.ckpt is None:
        raise UserError("job=export needs a checkpoint: ckpt=<run's folder>, ckpt=<file> or ckpt=last.")
    checkpoint = read_checkpoint(config.ckpt)
    file = folder / f"model{WEIGHTS}"
    write_weights(file, checkpoint)
    metrics = {"weights": float(sum(tensor.numel() for tensor in checkpoint["state_dict"].values()))}
    write_metrics(folder, metrics)
    log.info("Written to %s.", os.path.relpath(file))
    return metrics
