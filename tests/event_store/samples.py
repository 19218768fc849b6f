"""Events, batches and a clock for the tests of the event store."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta
from typing import TYPE_CHECKING

from event_store import Batch, NewEvent

if TYPE_CHECKING:
    from collections.abc import Iterator

    from event_store import EventStore, StoredEvent

START = datetime(2026, 1, 1, tzinfo=UTC)


class Clock:
    """A clock that goes a second further whenever it is read, unless it is set back."""

    def __init__(self) -> None:
        """Begin at START."""
        self.now = START

    def __call__(self) -> datetime:
        """Go on by a second and tell the time."""
        self.now += timedelta(seconds=1)
        return self.now


def event(event_id: str, *, payload: str = '{"n":1}', type_: str = "ThingDone", schema: int = 1) -> NewEvent:
    """Make an event of which only what matters is named."""
    return NewEvent(event_id=event_id, type=type_, schema=schema, payload=payload)


def batch(stream: str, *ids: str, after: int = 0, status: str | None = None, summary: str | None = None) -> Batch:
    """Make a batch of plain events with these ids, for a stream that has `after` events."""
    events = tuple(event(identifier) for identifier in ids)
    return Batch(stream=stream, events=events, expected_version=after, status=status, summary=summary)


def fill(store: EventStore) -> tuple[StoredEvent, ...]:
    """Append four events to two streams, one of them in the same transaction as another."""
    first = store.append(batch("run-1", "a", "b", status="open", summary="one"))
    second = store.append(batch("run-1", "c", after=2, status="closed"), batch("home", "d", status="open"))
    return first.records + second.records


def count(_stream: str, events: Iterator[StoredEvent]) -> tuple[str | None, str | None]:
    """Summarise a stream by the number of its events."""
    return "counted", str(sum(1 for _ in events))
