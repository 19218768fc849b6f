"""A file of real bytes beside the log, given up when the disk is full so that the failure can be recorded."""

from __future__ import annotations

import contextlib
import os
import shutil
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from pathlib import Path

_ROOM = 16
"""The reserve is made anew only where this many times its size is free: a full disk keeps what was given up."""


class Reserve:
    """The reserve of one log."""

    def __init__(self, path: Path, *, size_bytes: int) -> None:
        """Remember where the reserve lies and how large it is; 0 means none."""
        self._path = path
        self._size_bytes = size_bytes

    def refill(self) -> None:
        """Make the reserve where it is missing or short and there is room; without room do nothing."""
        # A log without a reserve is still a log: no failure here may keep it from opening.
        with contextlib.suppress(OSError):
            if self._size_bytes > self._present_bytes() and self._room():
                self._write()

    def _present_bytes(self) -> int:
        try:
            return self._path.stat().st_size
        except FileNotFoundError:
            return 0

    def _room(self) -> bool:
        return shutil.disk_usage(self._path.parent).free >= _ROOM * self._size_bytes

    def _write(self) -> None:
        descriptor = os.open(self._path, os.O_WRONLY | os.O_CREAT | os.O_TRUNC | os.O_CLOEXEC, 0o600)
        with os.fdopen(descriptor, "wb") as file:
            # Random, so that a filesystem that compresses cannot make it small. A crash leaves it short: made anew.
            file.write(os.urandom(self._size_bytes))
            file.flush()
            os.fsync(file.fileno())

    def free(self) -> bool:
        """Give the bytes back to the disk; return whether there were any."""
        try:
            self._path.unlink()
        except OSError:
            return False
        return True
