"""Taking turns: threads of a process with a lock in memory, processes with a lock file; both waits are bounded."""

from __future__ import annotations

import fcntl
import os
import threading
import time
from typing import TYPE_CHECKING

from event_store.errors import StoreBusyError, StoreError

if TYPE_CHECKING:
    from pathlib import Path

_POLL_SECONDS = 0.0005
_CLOSED = -1


class ThreadLock:
    """A lock between the threads of this process; the thread that has it may take it again."""

    def __init__(self, path: Path, *, timeout_seconds: float) -> None:
        """Name what is locked, for the message of StoreBusyError."""
        self._path = path
        self._timeout_seconds = timeout_seconds
        self._lock = threading.RLock()

    def __enter__(self) -> None:
        """Wait for the lock; raise StoreBusyError when the wait is over."""
        if not self._lock.acquire(timeout=self._timeout_seconds):
            raise StoreBusyError(str(self._path), self._timeout_seconds)

    def __exit__(self, *_: object) -> None:
        """Let the next thread in."""
        self._lock.release()


class FileLock:
    """An exclusive `flock`, released by the kernel when its holder dies.

    The file stays, since unlinking it would let two holders in.
    """

    def __init__(self, path: Path, *, timeout_seconds: float) -> None:
        """Open the lock file, close-on-exec so that no child keeps a dead parent's lock."""
        self._path = path
        self._timeout_seconds = timeout_seconds
        self._descriptor = os.open(path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)

    def __enter__(self) -> None:
        """Wait for the lock; raise StoreBusyError when the wait is over, StoreError when the lock was closed."""
        if self._descriptor == _CLOSED:
            raise StoreError(str(self._path), "the store is closed")
        deadline = time.monotonic() + self._timeout_seconds
        while not self._taken():
            if time.monotonic() >= deadline:
                raise StoreBusyError(str(self._path), self._timeout_seconds)
            time.sleep(_POLL_SECONDS)

    def __exit__(self, *_: object) -> None:
        """Let the next process in."""
        fcntl.flock(self._descriptor, fcntl.LOCK_UN)

    def _taken(self) -> bool:
        try:
            fcntl.flock(self._descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            return False
        return True

    def close(self) -> None:
        """Close the file; its number may be another file's afterwards, so it is forgotten."""
        os.close(self._descriptor)
        self._descriptor = _CLOSED
