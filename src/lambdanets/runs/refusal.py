"""Refused commands leave the file system as it was: without a log, and without the folders that Hydra made for them.

No import of torch: the command line uses this module before anything heavy is loaded.
"""

import logging
import logging.handlers
from contextlib import suppress
from pathlib import Path
from typing import Any

from hydra.core.hydra_config import HydraConfig
from hydra.experimental.callback import Callback
from omegaconf import DictConfig

MULTIRUN_FILE = "multirun.yaml"
# The folders that this command has made, the deepest first, and what multirun.yaml held before it.
new_folders: list[Path] = []
former_files: dict[Path, bytes | None] = {}


class HeldLog(logging.handlers.MemoryHandler):
    """Log handler that hands its records to another one only once the job has begun."""

    begun = False

    def flush(self) -> None:
        if self.begun:
            super().flush()

    def begin(self) -> None:
        """Write the records so far, and later ones at once."""
        self.begun, self.capacity = True, 0
        self.flush()


def release_logs() -> None:
    for handler in held_logs():
        handler.begin()


def drop_logs() -> None:
    """Forget the records of a job that has not begun."""
    for handler in held_logs():
        handler.buffer.clear()


def held_logs() -> list[HeldLog]:
    return [handler for handler in logging.getLogger().handlers if isinstance(handler, HeldLog)]


class RefusalGuard(Callback):
    """Remember what a command's output folder is like before Hydra makes it."""

    def on_run_start(self, config: DictConfig, **kwargs: Any) -> None:
        HydraConfig.instance().set_config(config)  # as Hydra does next; names refer to it
        with suppress(Exception):  # raised again when Hydra makes the folder; of a callback it is only a warning
            remember_folder(Path(config.hydra.run.dir))

    def on_multirun_start(self, config: DictConfig, **kwargs: Any) -> None:
        with suppress(Exception):
            folder = Path(config.hydra.sweep.dir)
            remember_folder(folder)
            file = folder / MULTIRUN_FILE
            former_files[file] = file.read_bytes() if file.is_file() else None

    def on_job_start(self, config: DictConfig, **kwargs: Any) -> None:
        former_files.clear()  # a sweep of which a run starts is not refused


def remember_folder(folder: Path) -> None:
    """Remember which of a folder and those above it are missing."""
    folder = folder.absolute()
    new_folders[:] = [path for path in (folder, *folder.parents) if not path.exists()]


def undo() -> None:
    """Restore multirun.yaml and remove the folders that the command has made, if they are empty."""
    for file, content in former_files.items():
        if content is not None:
            file.write_bytes(content)
        else:
            file.unlink(missing_ok=True)
    for folder in new_folders:
        with suppress(OSError):  # it holds files, or was never made
            folder.rmdir()
