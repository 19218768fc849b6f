"""What goes into a log and what comes out of it: plain frozen data."""

from __future__ import annotations

from dataclasses import dataclass
from datetime import datetime
from typing import TYPE_CHECKING, cast

if TYPE_CHECKING:
    from collections.abc import Iterable

Row = tuple[int, str, int, str, str, int, str, str, str]
"""position, stream, version, event_id, type, schema, recorded_at, data, hash: a record as a table keeps it."""
DerivedRow = tuple[str, str, int, int, int, str | None, str | None]
"""stream, category, version, position, first_position, status, summary: a stream's state as a table keeps it."""


@dataclass(frozen=True, slots=True, kw_only=True)
class NewEvent:
    """An event to append; `payload` is the text of a JSON object and is stored as it is."""

    event_id: str
    type: str
    schema: int
    payload: str


@dataclass(frozen=True, slots=True, kw_only=True)
class StoredEvent:
    """An event as the log holds it; `body` are the bytes that `hash` protects."""

    position: int
    stream: str
    version: int
    event_id: str
    type: str
    schema: int
    payload: str
    recorded_at: datetime
    hash: str
    body: bytes


@dataclass(frozen=True, slots=True, kw_only=True)
class Batch:
    """The events to append to one stream, which must hold `expected_version` events (0: it must not exist).

    `status` and `summary` describe the stream after these events; they are kept beside the log so that
    listing streams reads no events. None leaves what is there.
    """

    stream: str
    events: tuple[NewEvent, ...]
    expected_version: int
    status: str | None = None
    summary: str | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class Appended:
    """The stored events; `already` tells that an earlier append had stored exactly these."""

    records: tuple[StoredEvent, ...]
    already: bool


@dataclass(frozen=True, slots=True, kw_only=True)
class StreamHead:
    """Where a stream stands: its version, the position of its last event, and its derived state."""

    stream: str
    category: str
    version: int
    position: int
    status: str | None
    summary: str | None


@dataclass(frozen=True, slots=True, kw_only=True)
class LogHead:
    """The last position of the log and its hash, which stands for everything before it."""

    position: int
    hash: str


@dataclass(frozen=True, slots=True, kw_only=True)
class Problem:
    """Something an audit found: `kind` is `chain` (the log itself) or `derived` (what can be rebuilt from it)."""

    kind: str
    where: str
    what: str


@dataclass(slots=True)
class _Draft:
    # The fields of StoredEvent in its order. Filling a frozen dataclass costs more than SQLite needs to read the row;
    # filling this one and giving it its final class, seven times less.
    position: int
    stream: str
    version: int
    event_id: str
    type: str
    schema: int
    payload: str
    recorded_at: datetime
    hash: str
    body: bytes


def stored_event(  # noqa: PLR0917 - the columns in their order
    position: int,
    stream: str,
    version: int,
    event_id: str,
    type_: str,
    schema: int,
    payload: str,
    recorded_at: datetime,
    digest: str,
    body: bytes,
) -> StoredEvent:
    """Return the record; the quick way for logs of a million."""
    draft = _Draft(position, stream, version, event_id, type_, schema, payload, recorded_at, digest, body)
    draft.__class__ = StoredEvent  # type: ignore[assignment]
    return cast("StoredEvent", draft)


PAYLOAD_KEY = ',"payload":'


def stored_events(rows: Iterable[Row]) -> list[StoredEvent]:
    """Turn rows into records; raise ValueError for a row that no store of ours has written."""
    records: list[StoredEvent] = []
    text, time = "", None
    for position, stream, version, event_id, type_, schema, recorded_at, data, digest in rows:
        if time is None or recorded_at != text:
            text, time = recorded_at, datetime.fromisoformat(recorded_at)
        # The first occurrence is the real key: inside a JSON string its quotation marks would be escaped.
        payload = data[data.index(PAYLOAD_KEY) + len(PAYLOAD_KEY) : -1]
        records.append(
            stored_event(position, stream, version, event_id, type_, schema, payload, time, digest, data.encode())
        )
    return records


def stream_head(row: DerivedRow) -> StreamHead:
    """Turn a row of the derived table into what callers see."""
    stream, category, version, position, _first_position, status, summary = row
    return StreamHead(
        stream=stream, category=category, version=version, position=position, status=status, summary=summary
    )


def category_of(stream: str) -> str:
    """Return the text before the first hyphen, or the whole name."""
    return stream.partition("-")[0]
