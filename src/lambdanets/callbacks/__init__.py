"""Lightning callbacks: checkpoints, logs, visualizations, and orderly stops."""

from lambdanets.callbacks.checkpoint_writer import CheckpointWriter
from lambdanets.callbacks.epoch_logger import EpochLogger
from lambdanets.callbacks.gradient_norms import GradientNorms
from lambdanets.callbacks.hparams import HParams
from lambdanets.callbacks.lambda_visualization import LambdaVisualization
from lambdanets.callbacks.monitors import data_monitor, gradient_check, module_monitor
from lambdanets.callbacks.moving_average import MovingAverage
from lambdanets.callbacks.non_finite_guard import NonFiniteGuard
from lambdanets.callbacks.prediction_visualization import PredictionVisualization
from lambdanets.callbacks.profiler import Profiler
from lambdanets.callbacks.progress_bar import ProgressBar
from lambdanets.callbacks.receptive_field_visualization import ReceptiveFieldVisualization
from lambdanets.callbacks.speed import Speed
from lambdanets.callbacks.stop_on_signal import EndOnSignal, StopOnSignal

__all__ = [
    "CheckpointWriter",
    "EndOnSignal",
    "EpochLogger",
    "GradientNorms",
    "HParams",
    "LambdaVisualization",
    "MovingAverage",
    "NonFiniteGuard",
    "PredictionVisualization",
    "Profiler",
    "ProgressBar",
    "ReceptiveFieldVisualization",
    "Speed",
    "StopOnSignal",
    "data_monitor",
    "gradient_check",
    "module_monitor",
]
