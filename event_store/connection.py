"""How a log in SQLite is opened, and what its failures are called; the options that durability rests on."""

from __future__ import annotations

import contextlib
import errno
import os
import sqlite3
import threading
import time
from typing import TYPE_CHECKING
from urllib.parse import quote

from event_store.errors import EventStoreError, StoreBusyError, StoreError, StoreFullError, UnreadableLogError

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

WAL_PAGES_MAX = 1000
_WAL_RETRY_SECONDS = 0.005
_SQLITE_MINIMUM = (3, 37, 0)
_PRIMARY_CODE = 0xFF
_BUSY = {sqlite3.SQLITE_BUSY, sqlite3.SQLITE_LOCKED}
_DAMAGED = {sqlite3.SQLITE_NOTADB, sqlite3.SQLITE_CORRUPT, sqlite3.SQLITE_FORMAT}
_ERRNO = {
    sqlite3.SQLITE_READONLY: errno.EROFS,
    sqlite3.SQLITE_IOERR: errno.EIO,
    sqlite3.SQLITE_PERM: errno.EACCES,
    sqlite3.SQLITE_NOMEM: errno.ENOMEM,
}

_PRAGMAS = (
    # A commit is on the disk before it is acknowledged; NORMAL would lose the last ones at a power cut.
    "PRAGMA synchronous = FULL",
    # macOS: fsync leaves the bytes in the drive's cache, F_FULLFSYNC does not. Nothing elsewhere.
    "PRAGMA fullfsync = ON",
    "PRAGMA checkpoint_fullfsync = ON",
    # REPLACE deletes the row in its way; only with this does the trigger that refuses deletions see it.
    "PRAGMA recursive_triggers = ON",
    # A checkpoint runs inside the COMMIT that fills the write-ahead log to this many pages, never elsewhere. Every
    # commit holds the lock file, so none overlaps another's write, where SQLite before 3.51.3 can corrupt the file.
    f"PRAGMA wal_autocheckpoint = {WAL_PAGES_MAX}",
    # A reader that stays long lets the write-ahead log grow; once it is gone the file shrinks back to this.
    f"PRAGMA journal_size_limit = {WAL_PAGES_MAX * 8192}",
    # A damaged page is an error when it is read, not a wrong answer.
    "PRAGMA cell_size_check = ON",
    # With a memory map an I/O error would kill the process with SIGBUS instead of raising.
    "PRAGMA mmap_size = 0",
    # Functions named in a schema that somebody else edited are not run.
    "PRAGMA trusted_schema = OFF",
)

# POSIX drops all of a process's locks on a file when any of its descriptors is closed: the moment between making
# the file and closing it again must not meet another thread that has just opened the log.
_opening = threading.Lock()


def connect(path: Path, *, timeout_seconds: float) -> sqlite3.Connection:
    """Open the log, made with mode 0600 when it is missing, with every option written out."""
    if sqlite3.sqlite_version_info < _SQLITE_MINIMUM:
        raise StoreError(str(path), f"SQLite {sqlite3.sqlite_version} is too old: 3.37 or newer is needed")
    with _opening:
        with contextlib.suppress(FileExistsError):
            # SQLite gives its side files the mode of the database.
            os.close(os.open(path, os.O_RDWR | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, 0o600))
        connection = sqlite3.connect(
            _uri(path, mode="rw"),
            uri=True,
            timeout=timeout_seconds,
            # Transactions are written out: the driver's own would begin late and deferred.
            isolation_level=None,
            # Threads take turns under the store's lock.
            check_same_thread=False,
        )
    try:
        for pragma in _PRAGMAS:
            connection.execute(pragma)
    except BaseException:
        connection.close()
        raise
    return connection


@contextlib.contextmanager
def auditing(path: Path, *, timeout_seconds: float) -> Iterator[sqlite3.Connection]:
    """Open a second, read-only connection on one snapshot; text comes as bytes, however damaged."""
    connection = sqlite3.connect(
        _uri(path, mode="ro"), uri=True, timeout=timeout_seconds, isolation_level=None, check_same_thread=False
    )
    try:
        connection.text_factory = bytes
        connection.execute("BEGIN")
        yield connection
    finally:
        connection.close()


def _uri(path: Path, *, mode: str) -> str:
    return f"file:{quote(str(path.absolute()))}?mode={mode}"


def is_wal(connection: sqlite3.Connection) -> bool:
    """Tell whether the file is in write-ahead mode already; a restored copy may not be."""
    return bool(connection.execute("PRAGMA journal_mode").fetchone()[0] == "wal")


def use_wal(connection: sqlite3.Connection, *, timeout_seconds: float) -> None:
    """Switch the file to write-ahead logging for good; the caller holds the log's lock."""
    deadline = time.monotonic() + timeout_seconds
    while True:
        try:
            connection.execute("PRAGMA journal_mode = WAL")
        except sqlite3.OperationalError as error:
            # The switch does not wait for a process that is just looking at the file.
            if error.sqlite_errorcode & _PRIMARY_CODE != sqlite3.SQLITE_BUSY or time.monotonic() >= deadline:
                raise
            time.sleep(_WAL_RETRY_SECONDS)
        else:
            return


class Transaction:
    """A write transaction: committed at the end of the block, rolled back when the block or the commit fails."""

    def __init__(self, connection: sqlite3.Connection) -> None:
        """Remember the connection; one object serves for one transaction after the other."""
        self._connection = connection

    def __enter__(self) -> sqlite3.Connection:
        """Begin at once as a writer: what is read from here on is still so when it is written."""
        try:
            self._connection.execute("BEGIN IMMEDIATE")
        except BaseException:
            self._roll_back()
            raise
        return self._connection

    def __exit__(self, kind: type[BaseException] | None, *_: object) -> None:
        """Make it durable, or leave no trace."""
        try:
            if kind is None:
                self._connection.execute("COMMIT")
        finally:
            self._roll_back()

    def _roll_back(self) -> None:
        if self._connection.in_transaction:
            self._connection.execute("ROLLBACK")


class Translation:
    """Turns the failures of SQLite and of the disk inside a block into our own."""

    def __init__(self, path: Path, *, timeout_seconds: float) -> None:
        """Name the file and the wait that the messages speak of."""
        self._path = str(path)
        self._timeout_seconds = timeout_seconds

    def __enter__(self) -> None:
        """Do nothing yet."""

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, trace: object) -> None:
        """Raise what the caller knows how to handle."""
        if isinstance(error, sqlite3.Error):
            raise self._from_sqlite(error) from error
        if isinstance(error, OSError):
            if error.errno in {errno.ENOSPC, errno.EDQUOT}:
                raise StoreFullError(self._path) from error
            raise StoreError(self._path, error.strerror or str(error), errno=error.errno) from error

    def _from_sqlite(self, error: sqlite3.Error) -> EventStoreError:
        if is_full(error):
            return StoreFullError(self._path)
        reason = str(error)
        # What the module itself raises, for text that is no UTF-8 or a closed connection, carries no code.
        code = getattr(error, "sqlite_errorcode", -1) & _PRIMARY_CODE
        if code in _BUSY:
            return StoreBusyError(self._path, self._timeout_seconds)
        if code in _DAMAGED or "decode to UTF-8" in reason:
            return UnreadableLogError(self._path, reason, hint="Verify the log, restore it from a backup.")
        if code == sqlite3.SQLITE_ERROR and reason.startswith(("no such table", "no such column")):
            hint = "Rebuild the derived table, or restore the log from a backup."
            return UnreadableLogError(self._path, reason, hint=hint)
        return StoreError(self._path, reason, errno=_ERRNO.get(code), name=getattr(error, "sqlite_errorname", ""))


def is_full(error: sqlite3.Error) -> bool:
    """Tell whether the disk has no room; the shared-memory file has a code of its own for that."""
    code = getattr(error, "sqlite_errorcode", -1)
    return code & _PRIMARY_CODE == sqlite3.SQLITE_FULL or code == sqlite3.SQLITE_IOERR_SHMSIZE
