"""Lock of a run's folder, in which one process at a time trains.

No import of torch: the command line uses this module before anything heavy is loaded.
"""

import os
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path

from lambdanets.errors import UserError
from lambdanets.locks import Timeout, exclusive_lock

LOCK = ".lock"
# The data loader's processes of a killed training hold its lock until they notice, some five seconds later.
WAIT_S = 10.0


class RunInProgressError(UserError):
    """Another process trains in the folder."""


@contextmanager
def training_lock(folder: Path) -> Iterator[None]:
    """Keep other trainings out of a run's folder.

    Raises:
        RunInProgressError: another process holds the lock.
    """
    with ExitStack() as stack:
        try:
            stack.enter_context(exclusive_lock(folder / LOCK, timeout=WAIT_S))
        except Timeout as error:
            run = os.path.relpath(folder)
            raise RunInProgressError(
                f"'{run}' is being trained by another process: wait until it ends, or start a new run with "
                f"base_run={run}."
            ) from error
        yield
