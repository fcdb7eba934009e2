"""A model as it comes out of a checkpoint."""

from typing import Any, NamedTuple

from lambdanets.data import ImageData
from lambdanets.tasks import Task


class Trained(NamedTuple):
    """A task with its weights, and what belongs to them.

    Args:
        task: the task.
        data: the data module of its run, without data; it knows how images are prepared.
        checkpoint: where they come from.
    """

    task: Task
    data: ImageData
    checkpoint: dict[str, Any]

    @property
    def classes(self) -> list[str]:
        return self.checkpoint["classes"]
