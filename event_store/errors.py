"""Every error of the event store; imports nothing.

EventStoreError
  InvalidBatchError      the caller asks for what no log may hold
  ConcurrencyError       the stream is not at the version the caller expected
  EventIdConflictError   an event id is taken by something else
  UnreadableLogError     the file is not a log of ours, is damaged, or was written by a newer version
  StoreBusyError         a living process held the log for longer than the timeout
  StoreFullError         the disk is full, the reserve already spent
  StoreError             any other failure of the disk or the database
"""

from __future__ import annotations


class EventStoreError(RuntimeError):
    """Base of the package's errors."""


class InvalidBatchError(EventStoreError):
    """The batches given cannot be stored as they are; nothing was written."""


class ConcurrencyError(EventStoreError):
    """The stream is not at the version the caller expected; nothing was written."""

    def __init__(self, stream: str, expected: int, actual: int) -> None:
        """Name the stream, the version expected of it and the version it has."""
        super().__init__(f"stream {stream} is at version {actual}, not at {expected}")
        self.stream = stream
        self.expected = expected
        self.actual = actual


class EventIdConflictError(EventStoreError):
    """An event id is stored already, but not as part of this very append; nothing was written."""

    def __init__(self, event_id: str, reason: str) -> None:
        """Name the id and say how the stored event differs from what was asked."""
        super().__init__(f"event id {event_id}: {reason}")
        self.event_id = event_id
        self.reason = reason


class UnreadableLogError(EventStoreError):
    """The file cannot be used as a log; `hint` says what to do."""

    def __init__(self, path: str, reason: str, *, hint: str) -> None:
        """Name the file, what is wrong with it, and the way out."""
        super().__init__(f"{path}: {reason}. {hint}")
        self.path = path
        self.reason = reason
        self.hint = hint


class StoreBusyError(EventStoreError):
    """Another process or thread held the log for longer than the timeout; nothing was written."""

    def __init__(self, path: str, timeout_seconds: float) -> None:
        """Name the file and how long was waited."""
        super().__init__(f"{path}: held by another process or thread for more than {timeout_seconds:g} seconds")
        self.path = path
        self.timeout_seconds = timeout_seconds


class StoreFullError(EventStoreError):
    """The disk is full even after the reserve was freed; nothing was written."""

    def __init__(self, path: str) -> None:
        """Name the file that could not grow."""
        super().__init__(f"{path}: no space left on the disk")
        self.path = path


class StoreError(EventStoreError):
    """The disk or the database failed; what was acknowledged before is not affected."""

    def __init__(self, path: str, reason: str, *, errno: int | None = None, name: str = "") -> None:
        """Name the file and the failure; `errno` is the system's number, `name` SQLite's, where known."""
        super().__init__(f"{path}: {reason}")
        self.path = path
        self.reason = reason
        self.errno = errno
        self.name = name
