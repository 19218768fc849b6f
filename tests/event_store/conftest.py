"""The `store` fixture: every implementation, under one contract."""

from __future__ import annotations

from typing import TYPE_CHECKING

import pytest

from event_store import MemoryEventStore
from event_store.sqlite import SqliteEventStore
from tests.event_store.samples import Clock

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

    from event_store import EventStore


@pytest.fixture
def clock() -> Clock:
    """Give the clock that the stores of the test read."""
    return Clock()


@pytest.fixture
def log_path(tmp_path: Path) -> Path:
    """Say where the test's log on disk is."""
    return tmp_path / "events.db"


@pytest.fixture
def sqlite_store(log_path: Path, clock: Clock) -> Iterator[SqliteEventStore]:
    """Open a log in SQLite, and close it after the test."""
    store = SqliteEventStore(log_path, clock=clock, timeout_seconds=20.0, reserve_bytes=4096)
    yield store
    store.close()


@pytest.fixture(params=["memory", "sqlite"])
def store(request: pytest.FixtureRequest, clock: Clock) -> EventStore:
    """Give each implementation in turn."""
    if request.param == "memory":
        return MemoryEventStore(clock=clock)
    sqlite: SqliteEventStore = request.getfixturevalue("sqlite_store")
    return sqlite
