"""An append-only, hash-chained event log; knows nothing of engines or migrations.

The default store is `event_store.sqlite.SqliteEventStore`, imported by its own name by whoever opens a log on disk.
"""

from event_store.chain import GENESIS
from event_store.errors import (
    ConcurrencyError,
    EventIdConflictError,
    EventStoreError,
    InvalidBatchError,
    StoreBusyError,
    StoreError,
    StoreFullError,
    UnreadableLogError,
)
from event_store.memory import MemoryEventStore
from event_store.records import Appended, Batch, LogHead, NewEvent, Problem, StoredEvent, StreamHead, category_of
from event_store.store import EventStore

__all__ = [
    "GENESIS",
    "Appended",
    "Batch",
    "ConcurrencyError",
    "EventIdConflictError",
    "EventStore",
    "EventStoreError",
    "InvalidBatchError",
    "LogHead",
    "MemoryEventStore",
    "NewEvent",
    "Problem",
    "StoreBusyError",
    "StoreError",
    "StoreFullError",
    "StoredEvent",
    "StreamHead",
    "UnreadableLogError",
    "category_of",
]
