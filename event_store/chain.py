"""How events become hash-chained records, and how a chain is audited; no storage, no clock.

A body repeats stream, version, type and time, so that it describes itself. Its hash covers the hash before it:
the head's hash stands for the whole log. The first record follows sixty-four zeros.
"""

from __future__ import annotations

import json
from dataclasses import dataclass, field
from datetime import UTC, datetime
from functools import lru_cache
from hashlib import sha256
from json.encoder import encode_basestring
from typing import TYPE_CHECKING, Any, NamedTuple, NoReturn

from event_store.errors import EventIdConflictError, InvalidBatchError
from event_store.records import PAYLOAD_KEY, Appended, Problem, category_of, stored_event

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator, Mapping, Sequence

    from event_store.records import Batch, DerivedRow, NewEvent, Row, StoredEvent

GENESIS = "0" * 64


def _refuse_constant(name: str) -> NoReturn:
    message = f"{name} is not JSON"
    raise ValueError(message)


_decode = json.JSONDecoder(parse_constant=_refuse_constant).raw_decode


class Tip(NamedTuple):
    """The end of the log that the next record follows; `recorded_at` is text, as stored."""

    position: int
    hash: str
    recorded_at: str


EMPTY = Tip(position=0, hash=GENESIS, recorded_at="")


def check(batches: Sequence[Batch]) -> None:
    """Raise InvalidBatchError unless the batches can be stored and read back as they are."""
    if not batches or len({batch.stream for batch in batches}) != len(batches):
        raise InvalidBatchError("an append needs at least one batch, and each stream at most once")
    identifiers = set()
    count = 0
    for batch in batches:
        if not batch.events or batch.expected_version < 0:
            raise InvalidBatchError(f"stream {batch.stream!r}: a batch needs events and a version of 0 or more")
        _check_name(batch.stream)
        for event in batch.events:
            _check_event(event)
            identifiers.add(event.event_id)
        count += len(batch.events)
    if len(identifiers) != count:
        raise InvalidBatchError("an event id occurs twice in one append")


def _check_event(event: NewEvent) -> None:
    if not (event.event_id.isprintable() and event.event_id and event.type.isprintable() and event.type):
        _check_name(event.event_id)
        _check_name(event.type)
    payload = event.payload
    try:
        value, end = _decode(payload)
        if not payload.isascii():
            payload.encode()
    except (ValueError, RecursionError) as error:
        raise InvalidBatchError(f"event {event.event_id}: the payload is not JSON: {error}") from error
    if not isinstance(value, dict) or end != len(payload):
        raise InvalidBatchError(f"event {event.event_id}: the payload is not one JSON object")


def _check_name(name: str) -> None:
    # Control characters and lone surrogates have no place in a name that is shown, compared and stored.
    if not name or not name.isprintable():
        raise InvalidBatchError(f"{name!r} is not a name: it is empty or has characters that cannot be printed")


def extend(tip: Tip, batches: Sequence[Batch], now: datetime) -> tuple[list[Row], list[StoredEvent]]:
    """Chain the batches to `tip`, as rows and as records; times never go back, whatever the clock says."""
    if now.tzinfo is None:
        raise InvalidBatchError("the clock gives a time without a zone")
    time = now if now.tzinfo is UTC else now.astimezone(UTC)
    recorded_at = time.isoformat(timespec="microseconds")
    if recorded_at < tip.recorded_at:
        time, recorded_at = datetime.fromisoformat(tip.recorded_at), tip.recorded_at
    rows: list[Row] = []
    records: list[StoredEvent] = []
    position, digest = tip.position, tip.hash
    for batch in batches:
        stream = batch.stream
        quoted = encode_basestring(stream)
        for version, event in enumerate(batch.events, batch.expected_version + 1):
            event_id, type_, schema, payload = event.event_id, event.type, event.schema, event.payload
            data = (
                f'{{"stream":{quoted},"version":{version},"event_id":{encode_basestring(event_id)}'
                f',"type":{encode_basestring(type_)},"schema":{schema},"recorded_at":"{recorded_at}"'
                f"{PAYLOAD_KEY}{payload}}}"
            )
            body = data.encode()
            position += 1
            digest = sha256(digest.encode() + body).hexdigest()
            rows.append((position, stream, version, event_id, type_, schema, recorded_at, data, digest))
            records.append(
                stored_event(position, stream, version, event_id, type_, schema, payload, time, digest, body)
            )
    return rows, records


def derived_rows(records: Sequence[StoredEvent], batches: Sequence[Batch]) -> Iterator[DerivedRow]:
    """Yield each stream's row after the records of `extend`; its first position is that of a new stream."""
    first = 0
    for batch in batches:
        last = records[first + len(batch.events) - 1]
        stream = batch.stream
        yield (
            stream,
            category_of(stream),
            last.version,
            last.position,
            records[first].position,
            batch.status,
            batch.summary,
        )
        first += len(batch.events)


def repeated(batches: Sequence[Batch], known: Mapping[str, StoredEvent]) -> Appended | None:
    """Answer an append whose event ids are in the log already; None when none of them is."""
    if not known:
        return None
    records: list[StoredEvent] = []
    for batch in batches:
        for event in batch.events:
            stored = known.get(event.event_id)
            if stored is None:
                raise EventIdConflictError(event.event_id, "not stored, though others of the same append are")
            asked = (batch.stream, event.type, event.schema, event.payload)
            if asked != (stored.stream, stored.type, stored.schema, stored.payload):
                raise EventIdConflictError(event.event_id, f"stored at position {stored.position} with another body")
            records.append(stored)
    return Appended(records=tuple(records), already=True)


@dataclass(slots=True)
class Extent:
    """What the log says of one stream: its version and the positions of its last and first event."""

    version: int
    position: int
    first_position: int


@lru_cache(maxsize=4096)
def _text(raw: bytes) -> str:
    return raw.decode(errors="replace")


@lru_cache(maxsize=4096)
def _quoted(raw: bytes) -> str:
    return encode_basestring(raw.decode(errors="replace"))


@dataclass(slots=True)
class Audit:
    """Checks raw rows, text as bytes, one after the other; a damaged row is reported and the next judged by itself."""

    extents: dict[str, Extent] = field(default_factory=dict)
    position: int = 0
    _hash: bytes = GENESIS.encode()

    def chain(self, rows: Iterable[tuple[Any, ...]]) -> Iterator[Problem]:
        """Yield gaps, broken hashes, columns that differ from the body, and versions out of order."""
        for row in rows:
            try:
                whats = self._judge(row)
            except (TypeError, ValueError, AttributeError) as error:
                whats = [f"not a record: {error}"]
            for what in whats:
                yield Problem(kind="chain", where=f"position {row[0]}", what=what)
            self.position = row[0] if isinstance(row[0], int) else self.position + 1
            self._hash = row[8] if isinstance(row[8], bytes) else b""

    def _judge(self, row: tuple[Any, ...]) -> list[str]:
        position, raw_stream, version, event_id, type_, schema, recorded_at, data, digest = row
        stream = _text(raw_stream)
        extent = self.extents.get(stream)
        if extent is None:
            extent = self.extents[stream] = Extent(version=0, position=0, first_position=position)
        whats: list[str] = []
        if position != self.position + 1:
            whats.append(f"follows position {self.position}: what was between is missing")
        if sha256(self._hash + data).hexdigest().encode() != digest:
            whats.append("the hash is not that of the body and the record before")
        start = (
            f'{{"stream":{_quoted(raw_stream)},"version":{version}'
            f',"event_id":{encode_basestring(event_id.decode(errors="replace"))},"type":{_quoted(type_)}'
            f',"schema":{schema},"recorded_at":{_quoted(recorded_at)}{PAYLOAD_KEY}'
        )
        if not data.startswith(start.encode()) or not data.endswith(b"}"):
            whats.append("the columns do not repeat the body")
        if version != extent.version + 1:
            whats.append(f"version {version} of {stream} follows version {extent.version}")
        extent.version, extent.position = version, position
        return whats

    def derived(self, rows: Iterable[tuple[Any, ...]]) -> Iterator[Problem]:
        """Compare stream, category, version, position and first_position with what `chain` has seen."""
        unseen = dict(self.extents)
        for raw_stream, raw_category, *found in rows:
            stream, category = _plain(raw_stream), _plain(raw_category)
            extent = unseen.pop(stream, None)
            if extent is None:
                yield Problem(kind="derived", where=stream, what="the log has no such stream")
                continue
            wanted = [extent.version, extent.position, extent.first_position]
            if found != wanted or category != category_of(stream):
                what = f"version, position, first position are {found}, in the log {wanted}; category {category}"
                yield Problem(kind="derived", where=stream, what=what)
        for stream in unseen:
            yield Problem(kind="derived", where=stream, what="the stream has no row")


def _plain(raw: object) -> str:
    return raw.decode(errors="replace") if isinstance(raw, bytes) else str(raw)
