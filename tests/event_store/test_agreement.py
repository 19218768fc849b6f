"""The stores agree with each other and with a list, whatever is asked of them, over closings and openings."""

from __future__ import annotations

import tempfile
from pathlib import Path

from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, invariant, rule

from event_store import Appended, Batch, EventStore, EventStoreError, MemoryEventStore, NewEvent
from event_store.sqlite import SqliteEventStore
from tests.event_store.samples import Clock, count

STREAMS = st.sampled_from(["run-1", "run-2", "home", 'odd "näme"'])
EVENTS = st.builds(
    NewEvent,
    event_id=st.integers(0, 25).map(str),
    type=st.sampled_from(["Made", "Done"]),
    schema=st.integers(1, 2),
    payload=st.sampled_from(['{"n":1}', "{}"]),
)
STATUSES = st.sampled_from([None, "open", "closed"])


class Agreement(RuleBasedStateMachine):
    """Memory, SQLite and a plain list of what was acknowledged."""

    def __init__(self) -> None:
        """Begin with empty logs."""
        super().__init__()
        self.folder = tempfile.TemporaryDirectory()
        self.memory = MemoryEventStore(clock=Clock())
        self.clock = Clock()
        self.sqlite = self.opened()
        self.model: list[tuple[str, str, str]] = []

    def opened(self) -> SqliteEventStore:
        """Open the log on disk, as a new process would."""
        return SqliteEventStore(Path(self.folder.name, "events.db"), clock=self.clock, reserve_bytes=0)

    def teardown(self) -> None:
        """Leave nothing on the disk."""
        self.sqlite.close()
        self.folder.cleanup()

    @rule(
        parts=st.lists(
            st.tuples(STREAMS, st.lists(EVENTS, min_size=1, max_size=3), st.integers(-1, 1), STATUSES, STATUSES),
            min_size=1,
            max_size=2,
        )
    )
    def append(self, parts: list[tuple[str, list[NewEvent], int, str | None, str | None]]) -> None:
        """Append with right and wrong expectations, new and repeated ids."""
        batches = [
            Batch(
                stream=stream,
                events=tuple(events),
                expected_version=max(0, sum(s == stream for s, _, _ in self.model) + offset * (len(events) == 1)),
                status=status,
                summary=summary,
            )
            for stream, events, offset, status, summary in parts
        ]
        answer = attempt(self.memory, batches)
        found = attempt(self.sqlite, batches)
        assert found == answer
        self.clock.now = self.memory._clock.now  # type: ignore[attr-defined]
        if isinstance(answer, Appended) and not answer.already:
            self.model += [(b.stream, e.event_id, e.payload) for b in batches for e in b.events]

    @rule()
    def reopen(self) -> None:
        """Close the log on disk and open it again."""
        self.sqlite.close()
        self.sqlite = self.opened()

    @rule()
    def rebuild(self) -> None:
        """Derive the states of the streams anew."""
        assert self.sqlite.rebuild(count) == self.memory.rebuild(count)

    @rule(stream=STREAMS, after=st.integers(0, 5), until=st.none() | st.integers(0, 12))
    def read(self, stream: str, after: int, until: int | None) -> None:
        """Read part of a stream."""
        found = list(self.sqlite.read(stream, after_version=after, until_position=until))
        assert found == list(self.memory.read(stream, after_version=after, until_position=until))
        assert all(record.version > after for record in found)

    @rule(category=st.none() | st.sampled_from(["run", "home"]), statuses=st.none() | st.sets(STATUSES.filter(bool)))
    def list_streams(self, category: str | None, statuses: set[str] | None) -> None:
        """List the streams that match."""
        found = self.sqlite.stream_heads(category=category, statuses=statuses)
        assert found == self.memory.stream_heads(category=category, statuses=statuses)

    @invariant()
    def all_hold_the_same(self) -> None:
        """Compare everything that can be read."""
        records = list(self.sqlite.read_all())
        assert records == list(self.memory.read_all())
        assert [(r.stream, r.event_id, r.payload) for r in records] == self.model
        assert [r.position for r in records] == list(range(1, len(self.model) + 1))
        assert self.sqlite.head() == self.memory.head()
        assert self.sqlite.stream_heads() == self.memory.stream_heads()
        assert list(self.sqlite.verify()) == []


def attempt(store: EventStore, batches: list[Batch]) -> Appended | tuple[type[EventStoreError], str]:
    """Return the answer, or what kind of refusal it was."""
    try:
        return store.append(*batches)
    except EventStoreError as error:
        return type(error), str(error)


TestAgreement = Agreement.TestCase
TestAgreement.settings = settings(max_examples=25, stateful_step_count=20, deadline=None)
