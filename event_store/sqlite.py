"""The default store: one SQLite file that any number of processes and threads read and append to at once.

Beside the log lie `<log>-lock`, which every append holds, and `<log>-reserve`, bytes to give up when the disk is full.
"""

from __future__ import annotations

import contextlib
import json
import sqlite3
import weakref
from datetime import UTC, datetime
from pathlib import Path
from typing import TYPE_CHECKING

from event_store import chain, schema
from event_store.connection import Transaction, Translation, auditing, connect, is_full, is_wal, use_wal
from event_store.errors import ConcurrencyError, StoreBusyError, UnreadableLogError
from event_store.lock import FileLock, ThreadLock
from event_store.records import (
    Appended,
    LogHead,
    Problem,
    StoredEvent,
    StreamHead,
    category_of,
    stored_events,
    stream_head,
)
from event_store.reserve import Reserve

if TYPE_CHECKING:
    from collections.abc import Callable, Collection, Iterator
    from os import PathLike

    from event_store.records import Batch, DerivedRow, Row
    from event_store.store import Summarise

PAGE_ROWS = 512
_POSITION_MAX = 2**63 - 1


def _utc_now() -> datetime:
    return datetime.now(UTC)


class SqliteEventStore:
    """An event store in one SQLite file; an append that has returned survives any crash.

    A fork must not carry an open store into the child; exec is fine.
    """

    def __init__(
        self,
        path: str | PathLike[str],
        *,
        clock: Callable[[], datetime] = _utc_now,
        timeout_seconds: float = 30.0,
        reserve_bytes: int = 1024 * 1024,
    ) -> None:
        """Open the log, made or brought up to date where needed; its directory must exist.

        `timeout_seconds` bounds every wait for another process or thread. Raises UnreadableLogError for a file that
        is no log of ours or was written by a newer version.
        """
        self._path = Path(path)
        self._clock = clock
        self._timeout_seconds = timeout_seconds
        self._turn = ThreadLock(self._path, timeout_seconds=timeout_seconds)
        self._translated = Translation(self._path, timeout_seconds=timeout_seconds)
        self._reserve = Reserve(_beside(self._path, "-reserve"), size_bytes=reserve_bytes)
        with self._translated:
            self._alone = FileLock(_beside(self._path, "-lock"), timeout_seconds=timeout_seconds)
            try:
                self._connection = connect(self._path, timeout_seconds=timeout_seconds)
            except BaseException:
                self._alone.close()
                raise
            self._transaction = Transaction(self._connection)
            # Runs at the latest when the interpreter ends, so that the closing checkpoint holds the lock too.
            self._close = weakref.finalize(self, _close, self._connection, self._turn, self._alone)
            try:
                self._bring_up_to_date()
            except BaseException:
                self._close()
                raise
        self._reserve.refill()

    def append(self, *batches: Batch) -> Appended:
        """Append to one or more streams in one durable transaction; see EventStore.

        On a full disk the reserve is given up and the append tried once more.
        """
        chain.check(batches)
        with self._translated:
            try:
                return self._append(batches)
            except sqlite3.Error as error:
                if not is_full(error) or not self._reserve.free():
                    raise
                return self._append(batches)

    def _append(self, batches: tuple[Batch, ...]) -> Appended:
        try:
            with self._turn, self._alone, self._transaction as connection:
                tip = _tip(connection, batches)
                rows, records = chain.extend(tip, batches, self._clock())
                connection.executemany(schema.INSERT_EVENT, rows)
                for row in chain.derived_rows(records, batches):
                    if connection.execute(schema.ADVANCE_STREAM, row).rowcount == 0:
                        connection.execute(schema.UPSERT_STREAM, row)
        except (ConcurrencyError, sqlite3.IntegrityError) as error:
            # The usual append looks for no event id: only when it cannot be is it asked whether it has been. The
            # answer may be sought after the transaction, since what is stored never changes.
            answer = chain.repeated(batches, self._known(batches))
            if answer is not None:
                return answer
            if isinstance(error, ConcurrencyError):
                raise
            raise UnreadableLogError(str(self._path), str(error), hint="Verify the log.") from error
        return Appended(records=tuple(records), already=False)

    def _known(self, batches: tuple[Batch, ...]) -> dict[str, StoredEvent]:
        rows: list[Row] = []
        with self._turn:
            for batch in batches:
                for event in batch.events:
                    rows += self._connection.execute(schema.EVENT_BY_ID, (event.event_id,)).fetchall()
        return {record.event_id: record for record in self._records(rows)}

    def read(self, stream: str, *, after_version: int = 0, until_position: int | None = None) -> Iterator[StoredEvent]:
        """Yield the stream's events in order, page by page; see EventStore."""
        until = self.head().position if until_position is None else until_position
        full = True
        while full:
            records = self._page(schema.STREAM_PAGE, (stream, after_version, until, PAGE_ROWS))
            yield from records
            full = len(records) == PAGE_ROWS
            after_version = records[-1].version if records else after_version

    def read_all(self, *, after_position: int = 0, until_position: int | None = None) -> Iterator[StoredEvent]:
        """Yield every event in commit order, page by page; see EventStore."""
        until = self.head().position if until_position is None else until_position
        full = True
        while full:
            records = self._page(schema.LOG_PAGE, (after_position, until, PAGE_ROWS))
            yield from records
            full = len(records) == PAGE_ROWS
            after_position = records[-1].position if records else after_position

    def _page(self, statement: str, parameters: tuple[str | int, ...]) -> list[StoredEvent]:
        # Each page is a read transaction of its own: what a slow reader has not asked for holds nothing open.
        with self._translated, self._turn:
            rows = self._connection.execute(statement, parameters).fetchall()
        return self._records(rows)

    def _records(self, rows: list[Row]) -> list[StoredEvent]:
        try:
            return stored_events(rows)
        except (ValueError, TypeError, AttributeError) as error:
            where = f"positions {rows[0][0]} to {rows[-1][0]}"
            reason = f"a record at {where} is damaged: {error}"
            raise UnreadableLogError(str(self._path), reason, hint="Verify the log, restore a backup.") from error

    def head(self) -> LogHead:
        """Return the last position and its hash."""
        with self._translated, self._turn:
            tip = self._connection.execute(schema.TIP).fetchone()
        return LogHead(position=tip[0], hash=tip[1]) if tip else LogHead(position=0, hash=chain.GENESIS)

    def stream_head(self, stream: str) -> StreamHead | None:
        """Return where the stream stands, or None when it has no events."""
        heads = self._heads(schema.HEAD, stream)
        return heads[0] if heads else None

    def stream_heads(self, *, category: str | None = None, statuses: Collection[str] | None = None) -> list[StreamHead]:
        """Return the heads of the streams that match, in the order in which the streams began."""
        if statuses is None:
            return self._heads(schema.HEADS) if category is None else self._heads(schema.HEADS_OF_CATEGORY, category)
        wanted = json.dumps(list(statuses))
        if category is None:
            return self._heads(schema.HEADS_OF_STATUSES, wanted)
        return self._heads(schema.HEADS_OF_BOTH, category, wanted)

    def _heads(self, statement: str, *parameters: str) -> list[StreamHead]:
        with self._translated, self._turn:
            rows = self._connection.execute(statement, parameters).fetchall()
        return [stream_head(row) for row in rows]

    def rebuild(self, summarise: Summarise) -> int:
        """Derive every stream's head from the log anew, in one transaction; see EventStore."""
        from event_store import upkeep  # noqa: PLC0415 - loads sqlite_utils, which opening and appending do without

        with self._translated, self._turn, self._alone, self._transaction as connection:
            upkeep.restore_derived(connection)
            found: dict[str, DerivedRow] = {row[0]: row for row in connection.execute(schema.DERIVED).fetchall()}
            wrong: list[DerivedRow] = []
            for stream, version, position, first_position in connection.execute(schema.EXTENTS).fetchall():
                status, summary = summarise(stream, self.read(stream))
                row = (stream, category_of(stream), version, position, first_position, status, summary)
                if found.pop(stream, None) != row:
                    wrong.append(row)
            upkeep.rewrite_derived(connection, wrong, surplus=found)
        return len(wrong) + len(found)

    def verify(self) -> Iterator[Problem]:
        """Yield what is wrong with schema, chain and derived table, as of one snapshot; see EventStore."""
        audit = chain.Audit()
        try:
            with auditing(self._path, timeout_seconds=self._timeout_seconds) as connection:
                found = {
                    name.decode(): sql.decode(errors="replace") for name, sql in connection.execute(schema.DEFINITIONS)
                }
                yield from _schema_problems(found)
                yield from audit.chain(connection.execute(schema.LOG))
                if "streams" in found:
                    yield from audit.derived(connection.execute(schema.DERIVED_EXTENTS))
        except (sqlite3.Error, ValueError) as error:
            yield Problem(kind="chain", where=f"after position {audit.position}", what=f"unreadable: {error}")

    def close(self) -> None:
        """Close the log; whoever closes it last folds the write-ahead log into it."""
        with self._translated:
            self._close()

    def _bring_up_to_date(self) -> None:
        if self._applied() == schema.MIGRATIONS and is_wal(self._connection):
            return
        from event_store import upkeep  # noqa: PLC0415 - loads sqlite_utils, which opening and appending do without

        with self._turn, self._alone:
            # Only now: another process may just have made what was missing.
            self._applied()
            use_wal(self._connection, timeout_seconds=self._timeout_seconds)
        with self._turn, self._alone, self._transaction as connection:
            upkeep.migrate(connection)

    def _applied(self) -> tuple[str, ...]:
        """Return the migrations that the file has; refuse a file of another program or of a newer version."""
        tables = {name for (name,) in self._connection.execute(schema.TABLES).fetchall()}
        applied: tuple[str, ...] = ()
        if "_sqlite_migrations" in tables:
            found = self._connection.execute(schema.APPLIED, (schema.MIGRATION_SET,)).fetchall()
            applied = tuple(name for (name,) in found)
        unknown = sorted(set(applied) - set(schema.MIGRATIONS))
        if unknown:
            reason = f"written by a newer version, which made {', '.join(unknown)}"
            raise UnreadableLogError(str(self._path), reason, hint="Upgrade this program.")
        if not applied and tables - {"_sqlite_migrations"}:
            raise UnreadableLogError(str(self._path), "a database of another program", hint="Name another file.")
        return applied


def _beside(path: Path, suffix: str) -> Path:
    return path.with_name(path.name + suffix)


def _close(connection: sqlite3.Connection, turn: ThreadLock, alone: FileLock) -> None:
    with turn:
        try:
            with contextlib.suppress(StoreBusyError), alone:
                connection.close()
        finally:
            # Whoever cannot have the lock closes all the same: SQLite checkpoints at a close only when it can lock the
            # whole file, which no other open log allows. The lock only makes it certain.
            connection.close()
            alone.close()


def _tip(connection: sqlite3.Connection, batches: tuple[Batch, ...]) -> chain.Tip:
    """Return the end of the log, or raise ConcurrencyError when a stream is not as expected."""
    found: tuple[int | None, int, str, str] | None = None
    for batch in batches:
        # The version comes from the events: the derived table decides nothing.
        found = connection.execute(schema.VERSION_AND_TIP, (batch.stream,)).fetchone()
        actual = (found[0] if found else None) or 0
        if actual != batch.expected_version:
            raise ConcurrencyError(batch.stream, batch.expected_version, actual)
    return chain.Tip(*found[1:]) if found else chain.EMPTY


def _schema_problems(found: dict[str, str]) -> Iterator[Problem]:
    for name, definition in schema.OBJECTS.items():
        kind = "derived" if name in schema.DERIVED_OBJECTS else "chain"
        if name not in found:
            yield Problem(kind=kind, where=name, what="missing from the database")
        elif found[name] != definition:
            yield Problem(kind=kind, where=name, what="not as this version defines it")
    for name in sorted(found.keys() - schema.OBJECTS.keys()):
        yield Problem(kind="chain", where=name, what="defined by somebody else")
