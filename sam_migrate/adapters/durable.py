"""What the kernel offers for files that must survive a kill and a power cut, and its errors in our words.

Knows neither SAM's files nor ours: paths and bytes only.
"""

from __future__ import annotations

import ctypes
import errno
import fcntl
import itertools
import os
import re
import shutil
import stat
import sys
from contextlib import contextmanager, suppress
from functools import cache
from typing import TYPE_CHECKING, Final

from sam_migrate.errors import BadFileError, RefusedError, WaitingError

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator
    from pathlib import Path

COPY_BLOCK_BYTES: Final = 1 << 20
REMOVE_ATTEMPTS_MAX: Final = 5

# Names of ours begin with a dot and do not end in .json, so that no glob of SAM's matches them.
TEMPORARY_PREFIX: Final = ".sam_migrate-"
_NEW_FILE: Final = re.compile(r"\.sam_migrate-.+\.(?P<pid>[0-9]+)-[0-9]+\.new")
_SERIAL: Final = itertools.count(1)

_CAUSES: Final = {
    errno.ENOSPC: ("space", "Free some disk space, then resume."),
    errno.EDQUOT: ("space", "Raise the quota or free some of it, then resume."),
    errno.EROFS: ("read_only", "Mount the file system writable again, then resume."),
    errno.EIO: ("io", "Check the disk and its cabling (see the system log), then resume."),
    errno.EMFILE: ("descriptors", "Raise the limit on open files (`ulimit -n`), then resume."),
    errno.ENFILE: ("descriptors", "The system has too many open files; close some programs, then resume."),
    errno.EACCES: ("file", "Give this user permission to read and write it, then resume."),
    errno.EPERM: ("file", "Give this user permission to change it (is it locked or immutable?), then resume."),
}


@contextmanager
def translate(path: Path | str) -> Iterator[None]:
    """Turn an OSError of the block into a WaitingError that says what the world must mend.

    FileNotFoundError and FileExistsError pass as they are: whether a name is there is an answer, not a fault.
    """
    try:
        yield
    except (FileNotFoundError, FileExistsError):
        raise
    except OSError as error:
        waiting_for, hint = _CAUSES.get(error.errno or 0, ("file", "Repair what is at that path, then resume."))
        raise WaitingError(waiting_for, f"{path}: {os.strerror(error.errno or errno.EIO)}", hint=hint) from error


def sync_descriptor(descriptor: int) -> None:
    """Make what was written through the descriptor survive a power cut."""
    full = getattr(fcntl, "F_FULLFSYNC", None)
    if full is not None:
        # On macOS fsync stops at the drive's cache; only this request empties it. Not every file system knows it.
        with suppress(OSError):
            fcntl.fcntl(descriptor, full)
            return
    os.fsync(descriptor)


def sync_file(path: Path) -> None:
    """Make the file's bytes survive a power cut."""
    with translate(path):
        descriptor = os.open(path, os.O_RDONLY | os.O_CLOEXEC)
        try:
            sync_descriptor(descriptor)
        finally:
            os.close(descriptor)


def sync_directory(path: Path) -> None:
    """Make the names made, changed and removed in the directory survive a power cut."""
    sync_file(path)


def make_directory(path: Path, *, mode: int = 0o777) -> None:
    """Make the directory and its missing parents, each name durable; leave those that are there as they are."""
    with translate(path):
        if path.is_dir():
            return
        if path.parent != path:
            make_directory(path.parent, mode=mode)
        with suppress(FileExistsError):
            path.mkdir(mode=mode)
    sync_directory(path.parent)


def read_regular(path: Path) -> tuple[bytes, os.stat_result]:
    """Read a regular file whole, with its facts; anything else raises BadFileError, and a pipe does not block."""
    descriptor = os.open(path, os.O_RDONLY | os.O_CLOEXEC | os.O_NONBLOCK)
    try:
        facts = os.fstat(descriptor)
        if not stat.S_ISREG(facts.st_mode):
            raise BadFileError(str(path), "is not a regular file")
        # A writer may truncate or extend the file while it is read, so the size is only where reading begins.
        pieces = [os.read(descriptor, facts.st_size + 1)]
        while pieces[-1]:
            pieces.append(os.read(descriptor, COPY_BLOCK_BYTES))
        return b"".join(pieces), facts
    finally:
        os.close(descriptor)


def write_all(descriptor: int, content: bytes | memoryview) -> None:
    """Write every byte; a single write may stop short on a nearly full disk."""
    view = memoryview(content)
    while view:
        view = view[os.write(descriptor, view) :]


@contextmanager
def replacing(path: Path, *, mode: int | None = None) -> Iterator[int]:
    """Give a descriptor to write the file's next content through; on leaving, it is durable under its name.

    A kill before the rename leaves the old file and a temporary that `remove_abandoned` finds by its pid;
    an exception leaves the old file and nothing else.
    """
    temporary = path.with_name(f"{TEMPORARY_PREFIX}{path.name}.{os.getpid()}-{next(_SERIAL)}.new")
    with translate(path):
        descriptor = os.open(temporary, os.O_RDWR | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC | os.O_NOFOLLOW, 0o666)
    try:
        try:
            with translate(path), suppress(FileNotFoundError):
                os.fchmod(descriptor, stat.S_IMODE(path.stat().st_mode) if mode is None else mode)
            yield descriptor
            with translate(path):
                # Without this fsync a power cut after the rename may leave an empty file under the good name.
                sync_descriptor(descriptor)
        finally:
            os.close(descriptor)
        with translate(path):
            temporary.replace(path)
    except BaseException:
        with suppress(OSError):
            temporary.unlink()
        raise
    sync_directory(path.parent)


def write_durable(path: Path, content: bytes, *, mode: int | None = None) -> None:
    """Give the file this content, all of it or none: temporary beside it, fsync, rename, directory fsync.

    Without `mode` the file keeps the permissions it has, or gets those a new file gets.
    """
    with replacing(path, mode=mode) as descriptor, translate(path):
        write_all(descriptor, content)


def copy_file(source: Path, target: Path, *, mode: int | None = None, heed: Callable[[], None] = lambda: None) -> None:
    """Copy the bytes of a file, durably and all of them or none; the target is never a link to the source."""
    with translate(source), source.open("rb", buffering=0) as reader, replacing(target, mode=mode) as descriptor:
        while block := reader.read(COPY_BLOCK_BYTES):
            heed()
            with translate(target):
                write_all(descriptor, block)


def remove_tree(path: Path) -> None:
    """Remove a file, a link (never what it points to) or a directory with all in it; nothing there is fine."""
    with translate(path):
        for _ in range(REMOVE_ATTEMPTS_MAX):
            # Somebody else may remove, or add to, the same tree: then look again.
            try:
                if path.is_dir() and not path.is_symlink():
                    shutil.rmtree(path)
                else:
                    path.unlink()
            except FileNotFoundError:
                if not os.path.lexists(path):
                    return
            else:
                return
    raise WaitingError("file", f"{path}: cannot be removed, another program keeps changing it")


def remove_abandoned(directory: Path) -> int:
    """Remove the temporaries of `replacing` whose process is gone; return how many."""
    removed = 0
    with translate(directory), os.scandir(directory) as entries:
        for entry in entries:
            match = _NEW_FILE.fullmatch(entry.name)
            if match and not _alive(int(match["pid"])):
                with suppress(FileNotFoundError):
                    (directory / entry.name).unlink()
                    removed += 1
    return removed


def _alive(pid: int) -> bool:
    try:
        os.kill(pid, 0)
    except (ProcessLookupError, OverflowError):
        return False
    except PermissionError:
        return True
    return True


_AT_FDCWD_LINUX: Final = -100
_RENAME_EXCHANGE: Final = 2  # linux/fs.h
_RENAME_SWAP: Final = 2  # sys/stdio.h of macOS
_RENAMEAT2_CALL: Final = {"x86_64": 316, "aarch64": 276}
_CANNOT: Final = frozenset({errno.EINVAL, errno.ENOSYS, errno.ENOTSUP, errno.EOPNOTSUPP})


def exchange(first: Path, second: Path) -> None:
    """Exchange what two names of one file system stand for, in one step nobody sees the middle of.

    Raises FileNotFoundError when either is gone, RefusedError when the system or the file system cannot do it.
    """
    with translate(first):
        ctypes.set_errno(0)
        if _exchange_call()(os.fsencode(first), os.fsencode(second)) == 0:
            return
        code = ctypes.get_errno()
        if code in _CANNOT:
            raise RefusedError(
                f"{first.parent}: this file system cannot exchange two names in one step",
                hint="Move SAM's home to a local file system (ext4, xfs, btrfs, APFS); nothing was changed.",
            )
        raise OSError(code, os.strerror(code), str(first))


@cache
def _exchange_call() -> Callable[[bytes, bytes], int]:
    """Find the system's call, at the first use; on a C library without it (older musl) the kernel's own number."""
    library = ctypes.CDLL(None, use_errno=True)
    if sys.platform == "darwin":
        swap = library.renamex_np
        return lambda first, second: int(swap(first, second, ctypes.c_uint(_RENAME_SWAP)))
    here, flags = ctypes.c_int(_AT_FDCWD_LINUX), ctypes.c_uint(_RENAME_EXCHANGE)
    if hasattr(library, "renameat2"):
        renameat2 = library.renameat2
        return lambda first, second: int(renameat2(here, first, here, second, flags))
    number = _RENAMEAT2_CALL.get(os.uname().machine)
    if number is None:
        return _no_such_call
    call = library.syscall
    return lambda first, second: int(call(ctypes.c_long(number), here, first, here, second, flags))


def _no_such_call(_first: bytes, _second: bytes) -> int:
    ctypes.set_errno(errno.ENOSYS)
    return -1
