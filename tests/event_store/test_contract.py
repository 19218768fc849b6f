"""What every event store does; each test runs against all of them."""

from __future__ import annotations

import threading
from dataclasses import replace
from datetime import UTC, datetime, timedelta, timezone
from typing import TYPE_CHECKING

import pytest

from event_store import (
    GENESIS,
    Batch,
    ConcurrencyError,
    EventIdConflictError,
    EventStore,
    InvalidBatchError,
    LogHead,
    StreamHead,
)
from tests.event_store.samples import START, Clock, batch, count, event, fill

if TYPE_CHECKING:
    from collections.abc import Iterator

    from event_store import StoredEvent


def test_append_returns_what_reading_returns(store: EventStore) -> None:
    """The records of an append are those that are read later."""
    records = fill(store)
    assert tuple(store.read_all()) == records


def test_append_numbers_without_gaps(store: EventStore) -> None:
    """Positions count over the log and versions over each stream, both from 1."""
    records = fill(store)
    assert [(r.position, r.stream, r.version) for r in records] == [
        (1, "run-1", 1),
        (2, "run-1", 2),
        (3, "run-1", 3),
        (4, "home", 1),
    ]


def test_record_keeps_what_was_given(store: EventStore) -> None:
    """Id, type, schema and the very text of the payload come back."""
    given = event("ä-1", payload='{ "key": "\\u00e9 ü ,\\"payload\\":{}", "n": 1.50 }', type_="Naïve", schema=7)
    store.append(Batch(stream="täst-1", events=(given,), expected_version=0))
    (record,) = store.read("täst-1")
    assert (record.event_id, record.type, record.schema, record.payload) == ("ä-1", "Naïve", 7, given.payload)
    assert record.recorded_at == START + timedelta(seconds=1)


def test_read_filters_by_version(store: EventStore) -> None:
    """`after_version` leaves out what the reader has seen."""
    fill(store)
    assert [record.event_id for record in store.read("run-1", after_version=1)] == ["b", "c"]


@pytest.mark.parametrize(("until", "expected"), [(0, ""), (1, "a"), (2, "ab"), (9, "abc")])
def test_read_stops_at_position(store: EventStore, until: int, expected: str) -> None:
    """`until_position` shows the stream as it was then."""
    fill(store)
    assert "".join(record.event_id for record in store.read("run-1", until_position=until)) == expected


def test_read_all_between_positions(store: EventStore) -> None:
    """The bounds are exclusive below and inclusive above."""
    fill(store)
    assert [record.event_id for record in store.read_all(after_position=1, until_position=3)] == ["b", "c"]


def test_read_unknown_stream_is_empty(store: EventStore) -> None:
    """A stream without events reads as nothing and has no head."""
    fill(store)
    assert list(store.read("run-2")) == []
    assert store.stream_head("run-2") is None


def test_read_sees_log_as_it_was(store: EventStore) -> None:
    """What is appended during an iteration is not part of it."""
    fill(store)
    reader = store.read_all()
    first = next(reader)
    store.append(batch("run-2", "e"))
    assert [first.event_id, *(record.event_id for record in reader)] == ["a", "b", "c", "d"]


def test_read_goes_over_many_pages(store: EventStore) -> None:
    """A stream of more than two pages comes complete and in order."""
    events = tuple(event(f"e{number}") for number in range(1500))
    store.append(Batch(stream="long", events=events, expected_version=0))
    assert [record.version for record in store.read("long")] == list(range(1, 1501))
    assert [record.position for record in store.read_all(after_position=10)] == list(range(11, 1501))


def test_wrong_version_writes_nothing(store: EventStore) -> None:
    """The error says what was expected and what is, and the log is as before."""
    fill(store)
    before = store.head()
    with pytest.raises(ConcurrencyError) as caught:
        store.append(batch("run-1", "e", after=2))
    assert (caught.value.stream, caught.value.expected, caught.value.actual) == ("run-1", 2, 3)
    assert store.head() == before


def test_one_conflict_stops_every_batch(store: EventStore) -> None:
    """Batches of one append are stored together or not at all."""
    fill(store)
    with pytest.raises(ConcurrencyError):
        store.append(batch("run-2", "e"), batch("home", "f"))
    assert store.stream_head("run-2") is None
    assert store.head().position == 4


@pytest.mark.parametrize("after", [0, 1, 2])
def test_same_append_again_answers_already(store: EventStore, after: int) -> None:
    """A repetition returns the stored records, whatever version it expects now."""
    records = fill(store)
    again = store.append(batch("run-1", "a", "b", after=after))
    assert again.already
    assert again.records == records[:2]
    assert store.head().position == 4


def test_same_append_over_streams_answers_already(store: EventStore) -> None:
    """A repeated append of several batches returns its records in the order asked."""
    records = fill(store)
    again = store.append(batch("home", "d"), batch("run-1", "c", after=2))
    assert again.already
    assert again.records == (records[3], records[2])


@pytest.mark.parametrize(
    "asked",
    [
        batch("run-1", "c", "e", after=2),
        batch("run-1", "e", "c", after=3),
        batch("other", "a"),
        Batch(stream="run-1", events=(event("a", payload='{"n":2}'),), expected_version=0),
        Batch(stream="run-1", events=(event("a", type_="Other"),), expected_version=3),
        Batch(stream="run-1", events=(event("a", schema=2),), expected_version=7),
    ],
    ids=["partly-old", "partly-new", "stream", "payload", "type", "schema"],
)
def test_event_id_taken_is_refused(store: EventStore, asked: Batch) -> None:
    """An id that is stored as something else, or beside one that is not, writes nothing."""
    fill(store)
    with pytest.raises(EventIdConflictError):
        store.append(asked)
    assert store.head().position == 4
    assert list(store.verify()) == []


@pytest.mark.parametrize(
    "batches",
    [
        (),
        (Batch(stream="s", events=(), expected_version=0),),
        (batch("s", "a"), batch("s", "b", after=1)),
        (batch("s", "a", "a"),),
        (batch("s", "a", after=-1),),
        (batch("", "a"),),
        (batch("s\x00", "a"),),
        (batch("s", "a\n"),),
        (batch("s", "\ud800"),),
    ],
    ids=["none", "empty", "twice", "same-id", "negative", "no-name", "nul", "newline", "surrogate"],
)
def test_impossible_batch_is_refused(store: EventStore, batches: tuple[Batch, ...]) -> None:
    """What no log may hold is refused before anything is written."""
    with pytest.raises(InvalidBatchError):
        store.append(*batches)
    assert store.head().position == 0


@pytest.mark.parametrize(
    "payload", ["", "[]", "null", "{", '{"a":1} ', '{"a":1}{}', '{"a":NaN}', '{"a":"\n"}', '{"a":"\ud800"}', "{" * 20]
)
def test_payload_must_be_json_object(store: EventStore, payload: str) -> None:
    """A body that does not parse would be in the log for ever."""
    with pytest.raises(InvalidBatchError):
        store.append(Batch(stream="s", events=(event("a", payload=payload),), expected_version=0))
    assert store.head().position == 0


def test_clock_without_zone_is_refused(store: EventStore, clock: Clock) -> None:
    """A time that could mean any zone does not enter the log."""
    clock.now = datetime(2026, 1, 1)  # noqa: DTZ001 - the point
    with pytest.raises(InvalidBatchError):
        store.append(batch("s", "a"))
    assert store.head().position == 0


def test_time_never_goes_back(store: EventStore, clock: Clock) -> None:
    """A clock set back does not make a record older than the one before."""
    fill(store)
    clock.now = START - timedelta(days=1)
    (record,) = store.append(batch("run-2", "e")).records
    assert record.recorded_at == START + timedelta(seconds=2)


def test_time_is_stored_in_utc(store: EventStore, clock: Clock) -> None:
    """A clock of another zone names the same instant in UTC."""
    clock.now = START.astimezone(timezone(timedelta(hours=5)))
    (record,) = store.append(batch("run-2", "e")).records
    assert record.recorded_at.tzinfo == UTC
    assert record.recorded_at == START + timedelta(seconds=1)


def test_head_follows_last_record(store: EventStore) -> None:
    """The head is genesis first, and the last record's position and hash then."""
    assert store.head() == LogHead(position=0, hash=GENESIS)
    last = fill(store)[-1]
    assert store.head() == LogHead(position=4, hash=last.hash)


def test_stream_head_follows_appends(store: EventStore) -> None:
    """Version and position move; a status or summary not given stays."""
    fill(store)
    assert store.stream_head("run-1") == StreamHead(
        stream="run-1", category="run", version=3, position=3, status="closed", summary="one"
    )
    assert store.stream_head("home") == StreamHead(
        stream="home", category="home", version=1, position=4, status="open", summary=None
    )


def test_stream_head_keeps_status(store: EventStore) -> None:
    """An append without status moves the stream and leaves its state."""
    fill(store)
    store.append(batch("run-1", "e", after=3, summary="two"))
    head = store.stream_head("run-1")
    assert head is not None
    assert (head.version, head.status, head.summary) == (4, "closed", "two")


@pytest.mark.parametrize(
    ("category", "statuses", "expected"),
    [
        (None, None, ["b-1", "a-1", "b-2", "c"]),
        ("b", None, ["b-1", "b-2"]),
        ("c", None, ["c"]),
        (None, ["open"], ["b-1", "c"]),
        ("b", {"open", "shut"}, ["b-1", "b-2"]),
        ("b", (), []),
        ("nothing", None, []),
    ],
)
def test_stream_heads_are_filtered(
    store: EventStore, category: str | None, statuses: list[str] | None, expected: list[str]
) -> None:
    """Streams come in the order they began, by category and status."""
    store.append(batch("b-1", "1", status="shut"))
    store.append(batch("a-1", "2"), batch("b-2", "3", status="shut"))
    store.append(batch("c", "4", status="open"), batch("b-1", "5", after=1, status="open"))
    assert [head.stream for head in store.stream_heads(category=category, statuses=statuses)] == expected


def test_rebuild_derives_every_row(store: EventStore) -> None:
    """Each stream's state is what the caller makes of its events; a second time nothing is wrong."""
    fill(store)
    assert store.rebuild(count) == 2
    assert [(h.stream, h.status, h.summary) for h in store.stream_heads()] == [
        ("run-1", "counted", "3"),
        ("home", "counted", "1"),
    ]
    assert store.rebuild(count) == 0
    assert list(store.verify()) == []


def test_rebuild_of_empty_log(store: EventStore) -> None:
    """Nothing to derive is nothing wrong."""
    assert store.rebuild(count) == 0


def test_rebuild_that_fails_changes_nothing(store: EventStore) -> None:
    """A summary that cannot be made leaves the rows as they were."""
    fill(store)
    before = store.stream_heads()

    def fail(stream: str, events: Iterator[StoredEvent]) -> tuple[str | None, str | None]:
        raise LookupError(stream, events)

    with pytest.raises(LookupError):
        store.rebuild(fail)
    assert store.stream_heads() == before


def test_verify_finds_nothing_wrong(store: EventStore) -> None:
    """A log written by the store alone has no problems, empty or not."""
    assert list(store.verify()) == []
    fill(store)
    assert list(store.verify()) == []


def test_threads_append_side_by_side(store: EventStore) -> None:
    """Threads sharing a store lose nothing and break no chain."""

    def work(name: str) -> None:
        for version in range(25):
            store.append(batch(name, f"{name}/{version}", after=version))

    threads = [threading.Thread(target=work, args=(f"t-{number}",)) for number in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert [head.version for head in store.stream_heads()] == [25] * 4
    assert list(store.verify()) == []


def test_threads_contend_for_one_stream(store: EventStore) -> None:
    """Of two threads with the same expectation exactly one wins each version."""
    conflicts: list[ConcurrencyError] = []
    barrier = threading.Barrier(2)

    def work(name: str) -> None:
        barrier.wait()
        for version in range(20):
            try:
                store.append(batch("shared", f"{name}/{version}", after=version))
            except ConcurrencyError as error:
                conflicts.append(error)

    threads = [threading.Thread(target=work, args=(name,)) for name in "xy"]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    head = store.stream_head("shared")
    assert head is not None
    assert head.version + len(conflicts) == 40
    assert list(store.verify()) == []


def test_records_are_frozen(store: EventStore) -> None:
    """A record cannot be changed in place, and can be compared and copied."""
    (record,) = store.append(batch("s", "a")).records
    with pytest.raises(AttributeError):
        record.payload = "{}"  # type: ignore[misc]
    assert replace(record, version=1) == record
    assert hash(record) == hash(replace(record))
