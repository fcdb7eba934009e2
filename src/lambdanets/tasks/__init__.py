"""LightningModules: what is learnt with a model."""

from lambdanets.tasks.classification import Classification
from lambdanets.tasks.detection import Detection
from lambdanets.tasks.task import Task

__all__ = ["Classification", "Detection", "Task"]
