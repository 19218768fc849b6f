"""Reading files that a live SAM may be writing in place at this very moment."""

from __future__ import annotations

import errno
import os
import stat
from typing import TYPE_CHECKING, Final, TypeVar

from sam_migrate.errors import BadFileError, WaitingError

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path

T = TypeVar("T")

READS_MAX: Final = 21
READ_PAUSE_SECONDS: Final = 0.05

_NOT_A_FILE: Final = frozenset({errno.ELOOP, errno.EISDIR, errno.ENXIO, errno.EACCES, errno.EPERM})
_DESCRIPTORS: Final = frozenset({errno.EMFILE, errno.ENFILE})


def patiently(attempt: Callable[[], T], pause: Callable[[float], None]) -> T:
    """Repeat what raises BadFileError for up to a second; the last attempt's error stands.

    SAM truncates a file and then fills it, so a file counts as broken only when it stays so.
    """
    for _ in range(READS_MAX - 1):
        try:
            return attempt()
        except BadFileError:
            pause(READ_PAUSE_SECONDS)
    return attempt()


def read(path: Path, name: str, *, follow: bool = False) -> bytes | None:
    """Return the bytes of a regular file, None when it is gone; a link is refused unless `follow`."""
    # O_NONBLOCK: a FIFO put in the file's place must not hang us.
    flags = os.O_RDONLY | os.O_CLOEXEC | os.O_NONBLOCK | (0 if follow else os.O_NOFOLLOW)
    try:
        with open(os.open(path, flags), "rb") as file:  # noqa: PTH123 - Path.open takes no descriptor
            if not stat.S_ISREG(os.fstat(file.fileno()).st_mode):
                raise BadFileError(name, "is not a regular file")
            return file.read()
    except (FileNotFoundError, NotADirectoryError):
        return None
    except OSError as error:
        reason = f"cannot be read: {error.strerror or error}"
        if error.errno in _NOT_A_FILE:
            raise BadFileError(name, reason) from error
        cause = "descriptors" if error.errno in _DESCRIPTORS else "io"
        raise WaitingError(cause, f"{name}: {reason}") from error
