"""Locks between processes, by files."""

import errno
import inspect
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any

from filelock import FileLock, Timeout

__all__ = ["Timeout", "exclusive_lock"]
# Where a file system has no locks, a file in their place would outlive a killed process.
HAS_FALLBACK = "fallback_to_soft" in inspect.signature(FileLock.__init__).parameters
OPTIONS: dict[str, Any] = {"fallback_to_soft": False} if HAS_FALLBACK else {}


@contextmanager
def exclusive_lock(file: Path, *, timeout: float = -1) -> Iterator[None]:
    """Hold a lock that other processes wait for, where the file system has locks.

    The system releases the lock of a process that is killed. The file exists only while the lock is held, or after
    such a kill.

    Args:
        file: of the lock; its folder is made if it is missing.
        timeout: seconds to wait for another process, or −1 to wait for its end.

    Raises:
        Timeout: another process holds the lock.
    """
    lock = FileLock(file, **OPTIONS)
    try:
        lock.acquire(timeout=timeout)
    except Timeout:
        raise
    except (OSError, NotImplementedError) as error:
        if getattr(error, "errno", None) == errno.ENOSYS:  # filelock has made the file, and leaves it
            with suppress(OSError):
                file.unlink(missing_ok=True)
        yield  # a folder that can't be written, which the writing itself reports, or no locks
        return
    try:
        yield
    finally:
        file.unlink(missing_ok=True)  # while it is held, so that no other process loses its lock
        lock.release()
