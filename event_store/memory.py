"""The reference store: lists in memory. The others are checked against it.

The object is the disk: keep it and hand it to the next "process" of a test, and the log has survived the crash.
"""

from __future__ import annotations

import threading
from dataclasses import replace
from datetime import UTC, datetime
from typing import TYPE_CHECKING

from event_store import chain
from event_store.errors import ConcurrencyError
from event_store.records import Appended, LogHead, StoredEvent, StreamHead, category_of, stream_head

if TYPE_CHECKING:
    from collections.abc import Callable, Collection, Iterator

    from event_store.records import Batch, Problem, Row
    from event_store.store import Summarise


def _utc_now() -> datetime:
    return datetime.now(UTC)


class MemoryEventStore:
    """An event store that lives as long as the object; closing it closes nothing."""

    def __init__(self, *, clock: Callable[[], datetime] = _utc_now) -> None:
        """Start an empty log; `clock` gives the time of each append, with its zone."""
        self._clock = clock
        self._lock = threading.RLock()
        self._rows: list[Row] = []
        self._records: list[StoredEvent] = []
        self._streams: dict[str, list[StoredEvent]] = {}
        self._heads: dict[str, StreamHead] = {}
        self._by_id: dict[str, StoredEvent] = {}

    def append(self, *batches: Batch) -> Appended:
        """Append to one or more streams at once; see EventStore."""
        chain.check(batches)
        with self._lock:
            events = [event for batch in batches for event in batch.events]
            known = {event.event_id: self._by_id[event.event_id] for event in events if event.event_id in self._by_id}
            if (answer := chain.repeated(batches, known)) is not None:
                return answer
            for batch in batches:
                actual = len(self._streams.get(batch.stream, ()))
                if actual != batch.expected_version:
                    raise ConcurrencyError(batch.stream, batch.expected_version, actual)
            rows, records = chain.extend(self._tip(), batches, self._clock())
            self._rows += rows
            self._records += records
            for record in records:
                self._streams.setdefault(record.stream, []).append(record)
                self._by_id[record.event_id] = record
            for row in chain.derived_rows(records, batches):
                self._heads[row[0]] = _merged(self._heads.get(row[0]), stream_head(row))
            return Appended(records=tuple(records), already=False)

    def _tip(self) -> chain.Tip:
        if not self._rows:
            return chain.EMPTY
        last = self._rows[-1]
        return chain.Tip(position=last[0], hash=last[8], recorded_at=last[6])

    def read(self, stream: str, *, after_version: int = 0, until_position: int | None = None) -> Iterator[StoredEvent]:
        """Yield the stream's events in order; see EventStore."""
        with self._lock:
            records = list(self._streams.get(stream, ()))
        for record in records:
            if record.version > after_version and (until_position is None or record.position <= until_position):
                yield record

    def read_all(self, *, after_position: int = 0, until_position: int | None = None) -> Iterator[StoredEvent]:
        """Yield every event in commit order; see EventStore."""
        with self._lock:
            records = list(self._records)
        for record in records:
            if record.position > after_position and (until_position is None or record.position <= until_position):
                yield record

    def head(self) -> LogHead:
        """Return the last position and its hash."""
        with self._lock:
            tip = self._tip()
        return LogHead(position=tip.position, hash=tip.hash)

    def stream_head(self, stream: str) -> StreamHead | None:
        """Return where the stream stands, or None when it has no events."""
        with self._lock:
            return self._heads.get(stream)

    def stream_heads(self, *, category: str | None = None, statuses: Collection[str] | None = None) -> list[StreamHead]:
        """Return the heads of the streams that match, in the order in which the streams began."""
        with self._lock:
            return [
                head
                for head in self._heads.values()
                if (category is None or head.category == category) and (statuses is None or head.status in statuses)
            ]

    def rebuild(self, summarise: Summarise) -> int:
        """Derive every stream's head anew; return the number that were wrong."""
        with self._lock:
            wanted: dict[str, StreamHead] = {}
            for stream, records in self._streams.items():
                status, summary = summarise(stream, iter(tuple(records)))
                wanted[stream] = StreamHead(
                    stream=stream,
                    category=category_of(stream),
                    version=records[-1].version,
                    position=records[-1].position,
                    status=status,
                    summary=summary,
                )
            wrong = sum(self._heads.get(stream) != head for stream, head in wanted.items())
            self._heads = wanted
            return wrong

    def verify(self) -> Iterator[Problem]:
        """Yield what is wrong with the chain or the heads; memory has no triggers to look at."""
        with self._lock:
            rows = list(self._rows)
            heads = list(self._heads.values())
        audit = chain.Audit()
        yield from audit.chain(tuple(c.encode() if isinstance(c, str) else c for c in row) for row in rows)
        first = {stream: extent.first_position for stream, extent in audit.extents.items()}
        yield from audit.derived((h.stream, h.category, h.version, h.position, first.get(h.stream)) for h in heads)

    def close(self) -> None:
        """Do nothing: the object outlives whoever used it."""


def _merged(before: StreamHead | None, after: StreamHead) -> StreamHead:
    if before is None:
        return after
    return replace(
        after,
        status=before.status if after.status is None else after.status,
        summary=before.summary if after.summary is None else after.summary,
    )
