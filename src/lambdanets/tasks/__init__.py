"""LightningModules: losses and scores around a model."""

from lambdanets.tasks.classification import Classification
from lambdanets.tasks.detection import Detection
from lambdanets.tasks.task import ScoreTable, Task

__all__ = ["Classification", "Detection", "ScoreTable", "Task"]
