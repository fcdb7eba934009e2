"""TensorBoard logger that never interrupts training."""

import logging
from collections.abc import Callable
from typing import Any

from pytorch_lightning.loggers import TensorBoardLogger
from pytorch_lightning.loggers.logger import DummyExperiment, rank_zero_experiment
from pytorch_lightning.utilities import rank_zero_only
from torch.utils.tensorboard import SummaryWriter
from typing_extensions import override

from lambdanets.runs import provenance

log = logging.getLogger(__name__)


class ResilientTensorBoardLogger(TensorBoardLogger):
    """Lightning's TensorBoardLogger, except that training continues when the log cannot be written.

    It writes nothing before the start of the run is recorded: Lightning opens the log earlier, when the training may
    still be refused.
    """

    @property
    @override
    @rank_zero_experiment
    def experiment(self) -> SummaryWriter:
        if provenance.pending_starts:
            return DummyExperiment()  # type: ignore[return-value]
        is_new = self._experiment is None
        writer = super().experiment
        if is_new and writer.file_writer is not None:
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
    """Event writer that logs its first failure, and ignores all calls after it."""

    def __init__(self, writer: Any) -> None:
        self.writer = writer
        self.failed = False

    def __getattr__(self, name: str) -> Any:
        attribute = getattr(self.writer, name)
        return self.catch_errors(attribute) if callable(attribute) else attribute

    def catch_errors(self, method: Callable[..., Any]) -> Callable[..., Any]:
        def attempt(*args: Any, **kwargs: Any) -> Any:
            if self.failed:
                return None
            try:
                return method(*args, **kwargs)
            except Exception as error:
                self.failed = True
                log.warning("The TensorBoard log cannot be written (%s): training continues without it.", error)
                return None

        return attempt
