"""Lightning callbacks: what is watched and kept during training."""

from lambdanets.callbacks.checkpoints import Checkpoints, DurableIO
from lambdanets.callbacks.epoch_line import EpochLine
from lambdanets.callbacks.finite import Finite
from lambdanets.callbacks.gradient_norms import GradientNorms
from lambdanets.callbacks.hparams import HParams
from lambdanets.callbacks.lambda_pictures import LambdaPictures
from lambdanets.callbacks.monitors import data_monitor, gradient_check, module_monitor
from lambdanets.callbacks.predictions import Predictions
from lambdanets.callbacks.profiler import Profiler
from lambdanets.callbacks.receptive_field import ReceptiveField
from lambdanets.callbacks.signals import StopOnSignal
from lambdanets.callbacks.speed import Speed

__all__ = [
    "Checkpoints",
    "DurableIO",
    "EpochLine",
    "Finite",
    "GradientNorms",
    "HParams",
    "LambdaPictures",
    "Predictions",
    "Profiler",
    "ReceptiveField",
    "Speed",
    "StopOnSignal",
    "data_monitor",
    "gradient_check",
    "module_monitor",
]
