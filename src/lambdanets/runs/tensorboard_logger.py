"""TensorBoard's log, whose failure isn't the training's."""

import logging
from collections.abc import Callable
from typing import Any

from pytorch_lightning.loggers import TensorBoardLogger
from pytorch_lightning.loggers.logger import rank_zero_experiment
from pytorch_lightning.utilities import rank_zero_only
from torch.utils.tensorboard import SummaryWriter
from typing_extensions import override

log = logging.getLogger(__name__)


class ResilientTensorBoardLogger(TensorBoardLogger):
    """Lightning's TensorBoard logger; after its writer has died, training goes on without it. Arguments as there."""

    @property
    @override
    @rank_zero_experiment
    def experiment(self) -> SummaryWriter:
        new = self._experiment is None
        writer = super().experiment
        if new and writer.file_writer is not None:
            writer.file_writer.event_writer = ResilientEventWriter(writer.file_writer.event_writer)
        return writer

    @override
    @rank_zero_only
    def save(self) -> None:
        if self._experiment is not None:
            self._experiment.flush()

    @override
    @rank_zero_only
    def finalize(self, status: str) -> None:
        if self._experiment is not None:
            self._experiment.flush()
            self._experiment.close()


class ResilientEventWriter:
    """An event writer that tells once that it has failed, and then takes everything and writes nothing."""

    def __init__(self, writer: Any) -> None:
        self.writer = writer
        self.dead = False

    def __getattr__(self, name: str) -> Any:
        found = getattr(self.writer, name)
        return self.forgiving(found) if callable(found) else found

    def forgiving(self, call: Callable[..., Any]) -> Callable[..., Any]:
        def attempt(*args: Any, **kwargs: Any) -> Any:
            if self.dead:
                return None
            try:
                return call(*args, **kwargs)
            except Exception as error:
                self.dead = True
                log.warning("TensorBoard's log can't be written (%s): training goes on without it.", error)
                return None

        return attempt
