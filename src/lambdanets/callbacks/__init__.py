"""Lightning callbacks: what is watched and kept during training."""

from lambdanets.callbacks.checkpoints import Checkpoints, DurableIO
from lambdanets.callbacks.epoch_line import EpochLine
from lambdanets.callbacks.finite import Finite
from lambdanets.callbacks.hparams import HParams
from lambdanets.callbacks.monitors import data_monitor, gradient_check, module_monitor
from lambdanets.callbacks.signals import StopOnSignal
from lambdanets.callbacks.speed import Speed

__all__ = [
    "Checkpoints",
    "DurableIO",
    "EpochLine",
    "Finite",
    "HParams",
    "Speed",
    "StopOnSignal",
    "data_monitor",
    "gradient_check",
    "module_monitor",
]
