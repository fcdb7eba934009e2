"""One process at a time trains in a run's folder.

No import of torch: the command line uses this module before anything heavy is loaded.
"""

import os
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from filelock import FileLock, Timeout

from lambdanets.errors import UserError

LOCK = ".lock"
# The data loader's processes of a killed training hold its lock until they notice, some five seconds later.
WAIT_S = 10.0


class RunInProgressError(UserError):
    """Another process trains in the folder."""


@contextmanager
def training_lock(folder: Path) -> Iterator[None]:
    """Keep other trainings out of a run's folder, where the file system has locks.

    The system releases the lock of a process that is killed.

    Raises:
        RunInProgressError: another process holds the lock.
    """
    file = folder / LOCK
    lock = FileLock(file)
    try:
        lock.acquire(timeout=WAIT_S)
    except Timeout as error:
        run = os.path.relpath(folder)
        raise RunInProgressError(
            f"'{run}' is being trained by another process: wait until it ends, or start a new run with base_run={run}."
        ) from error
    except (OSError, NotImplementedError):
        yield  # a folder that cannot be written, which the training itself reports, or no locks
        return
    try:
        yield
    finally:
        file.unlink(missing_ok=True)  # while it is held, so that no other process loses its lock
        lock.release()
