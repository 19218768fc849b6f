"""Locks between processes by `flock`: the kernel releases them when their holder dies, however it dies.

Lock files are never unlinked: a second process could otherwise lock the old file and a third the new one. Descriptors
are close-on-exec, and children must be exec'd: a forked child would keep its dead parent's lock.
"""

from __future__ import annotations

import ctypes
import fcntl
import os
import re
import sys
import time
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import TYPE_CHECKING, Final

from sam_migrate.adapters.durable import make_directory, translate
from sam_migrate.errors import LockedError, RefusedError

if TYPE_CHECKING:
    from collections.abc import Iterator

# Whoever only asks who holds a lock has it for microseconds; that must not look like a holder.
ATTEMPTS_MAX: Final = 5
ATTEMPT_PAUSE_SECONDS: Final = 0.01

_NAME: Final = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]{0,120}")
_NETWORK: Final = frozenset(
    {
        "9p",
        "afpfs",
        "afs",
        "beegfs",
        "ceph",
        "cifs",
        "coda",
        "davfs",
        "fuse.ceph",
        "fuse.glusterfs",
        "fuse.rclone",
        "fuse.s3fs",
        "fuse.sshfs",
        "gfs2",
        "gpfs",
        "lustre",
        "ncpfs",
        "nfs",
        "nfs4",
        "ocfs2",
        "smb2",
        "smb3",
        "smbfs",
        "webdav",
    }
)
_MOUNTS: Final = Path("/proc/self/mountinfo")


class FileLocks:
    """The Locks port on the files `<directory>/<name>.lock`; each holds its last holder's pid, for messages only."""

    def __init__(self, directory: Path) -> None:
        """Keep the directory; it is made, and its file system judged, at the first lock."""
        self._directory = directory

    @contextmanager
    def hold(self, name: str) -> Iterator[None]:
        """Hold the lock for the length of the block; raise LockedError at once when a living process has it."""
        make_directory(self._directory, mode=0o700)
        refuse_network(self._directory)
        path = self._path(name)
        with translate(path):
            descriptor = os.open(path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC | os.O_NOFOLLOW, 0o600)
        try:
            if not _lock(descriptor):
                raise LockedError(name, _written_pid(descriptor) or None)
            with translate(path):
                os.ftruncate(descriptor, 0)
                os.pwrite(descriptor, f"{os.getpid()}\n".encode("ascii"), 0)
            yield
            with suppress(OSError):
                os.ftruncate(descriptor, 0)
        finally:
            os.close(descriptor)

    def holder(self, name: str) -> int | None:
        """Return the pid of the living process that holds the lock, 0 if it has not said its pid yet, or None."""
        try:
            with translate(self._path(name)):
                descriptor = os.open(self._path(name), os.O_RDONLY | os.O_CLOEXEC | os.O_NOFOLLOW)
        except FileNotFoundError:
            return None
        try:
            # Only the kernel knows whether the lock is held; the pid in the file may be of a process long dead.
            if _lock(descriptor):
                return None
            return _written_pid(descriptor)
        finally:
            os.close(descriptor)

    def _path(self, name: str) -> Path:
        if not _NAME.fullmatch(name):
            raise RefusedError(f"{name!r} cannot be the name of a lock")
        return self._directory / f"{name}.lock"


def refuse_network(directory: Path) -> None:
    """Raise RefusedError where the directory's file system is one whose locks do not reach every process."""
    kind = _file_system(directory)
    if kind in _NETWORK:
        raise RefusedError(
            f"{directory} is on a network file system ({kind}), whose locks cannot be trusted",
            hint="Move SAM's home to a local disk.",
        )


def _lock(descriptor: int) -> bool:
    for attempt in range(ATTEMPTS_MAX):
        try:
            fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            if attempt + 1 < ATTEMPTS_MAX:
                time.sleep(ATTEMPT_PAUSE_SECONDS)
        else:
            return True
    return False


def _written_pid(descriptor: int) -> int:
    text = os.pread(descriptor, 32, 0).strip()
    return int(text) if text.isdigit() else 0


def _file_system(directory: Path) -> str:
    """Return the file system's kind, "" where the system does not tell."""
    if sys.platform == "darwin":
        return _file_system_of_macos(directory)
    return mounted_kind(_MOUNTS.read_text("utf-8", "replace"), directory.stat().st_dev) if _MOUNTS.exists() else ""


def mounted_kind(mounts: str, device: int) -> str:
    """Find the device in the text of `/proc/self/mountinfo`; "" when it is not there."""
    wanted = f"{os.major(device)}:{os.minor(device)}"
    for line in mounts.splitlines():
        fields, _, rest = line.partition(" - ")
        if fields.split()[2:3] == [wanted] and rest:
            return rest.split()[0]
    return ""


_STATFS_BYTES: Final = 4096  # more than struct statfs has on any macOS
_STATFS_KIND: Final = slice(72, 88)  # f_fstypename


def _file_system_of_macos(directory: Path) -> str:
    library = ctypes.CDLL(None, use_errno=True)
    statfs = getattr(library, "statfs$INODE64", None) or library.statfs
    facts = ctypes.create_string_buffer(_STATFS_BYTES)
    if statfs(os.fsencode(directory), facts) != 0:
        return ""
    return facts.raw[_STATFS_KIND].partition(b"\0")[0].decode("ascii", "replace")
