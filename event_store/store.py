"""The contract every event store keeps; one test suite checks them all."""

from __future__ import annotations

from typing import TYPE_CHECKING, Protocol

if TYPE_CHECKING:
    from collections.abc import Callable, Collection, Iterator

    from event_store.records import Appended, Batch, LogHead, Problem, StoredEvent, StreamHead

    Summarise = Callable[[str, Iterator[StoredEvent]], tuple[str | None, str | None]]
    """Given a stream and its events, returns its status and summary."""


class EventStore(Protocol):
    """An append-only log of events in named streams, with one order over all of them."""

    def append(self, *batches: Batch) -> Appended:
        """Append to one or more streams, each named once, in one durable transaction.

        Event ids are looked up first: all stored with the same stream, type, schema and payload answers `already`;
        some, or with another body, raises EventIdConflictError. Then a stream at another version than expected
        raises ConcurrencyError. Either way nothing is written. What is returned survives any crash.
        """

    def read(self, stream: str, *, after_version: int = 0, until_position: int | None = None) -> Iterator[StoredEvent]:
        """Yield the stream's events in order, as they stood when the iteration began; unknown streams are empty."""

    def read_all(self, *, after_position: int = 0, until_position: int | None = None) -> Iterator[StoredEvent]:
        """Yield every event in commit order, as the log stood when the iteration began."""

    def head(self) -> LogHead:
        """Return the last position and its hash; position 0 and the genesis hash for an empty log."""

    def stream_head(self, stream: str) -> StreamHead | None:
        """Return where the stream stands, or None when it has no events."""

    def stream_heads(self, *, category: str | None = None, statuses: Collection[str] | None = None) -> list[StreamHead]:
        """Return the heads of the streams that match, in the order in which the streams began."""

    def rebuild(self, summarise: Summarise) -> int:
        """Derive every stream's head from the log anew; return the number of rows that were wrong.

        One transaction: appends wait for its end. `summarise` may read the store but not append to it.
        """

    def verify(self) -> Iterator[Problem]:
        """Yield what is wrong with the log or with what was derived from it; damage is reported, never raised."""

    def close(self) -> None:
        """Let go of what the store holds open; closing twice is harmless."""
