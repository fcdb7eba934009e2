"""LightningModules: what is learnt with a model."""

from lambdanets.tasks.classification import Classification

__all__ = ["Classification"]
