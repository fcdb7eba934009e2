"""Lightning callbacks: what is watched and kept during training."""

from lambdanets.callbacks.best import BestCheckpoint
from lambdanets.callbacks.epoch_line import EpochLine
from lambdanets.callbacks.hparams import HParams
from lambdanets.callbacks.monitors import data_monitor, gradient_check, module_monitor
from lambdanets.callbacks.speed import Speed

__all__ = [
    "BestCheckpoint",
    "EpochLine",
    "HParams",
    "Speed",
    "data_monitor",
    "gradient_check",
    "module_monitor",
]
