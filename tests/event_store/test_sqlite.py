"""What only the SQLite store has: a file, its schema, and the ways it can refuse."""

from __future__ import annotations

import os
import sqlite3
import stat
import subprocess
import sys
from contextlib import closing
from pathlib import Path

import pytest

from event_store import Batch, StoreBusyError, StoreError, StoreFullError, UnreadableLogError, schema
from event_store.lock import FileLock
from event_store.sqlite import SqliteEventStore
from tests.event_store.samples import batch, count, event, fill

ROOT = Path(__file__).parents[2]


@pytest.mark.parametrize(
    "statement",
    [
        "UPDATE events SET type = 'x'",
        "DELETE FROM events",
        "DELETE FROM events WHERE position = 4",
        "REPLACE INTO events SELECT * FROM events WHERE position = 1",
        "INSERT OR REPLACE INTO events SELECT 9, stream, version, event_id, 'x', 1, '', '{}', '' FROM events",
        "UPDATE OR IGNORE events SET position = position + 10",
    ],
)
def test_database_refuses_to_change_history(sqlite_store: SqliteEventStore, statement: str) -> None:
    """The triggers stand in the way of whoever has a connection."""
    records = fill(sqlite_store)
    with pytest.raises(sqlite3.IntegrityError, match="append-only"):
        sqlite_store._connection.execute(statement)
    assert tuple(sqlite_store.read_all()) == records


@pytest.mark.parametrize("statement", ["UPDATE events SET type = 'x'", "DELETE FROM events"])
def test_foreign_connection_meets_triggers(sqlite_store: SqliteEventStore, log_path: Path, statement: str) -> None:
    """Another program's plain connection is refused the same."""
    fill(sqlite_store)
    with closing(sqlite3.connect(log_path)) as raw, pytest.raises(sqlite3.IntegrityError, match="append-only"):
        raw.execute(statement)


@pytest.mark.parametrize(
    ("pragma", "expected"),
    [
        ("journal_mode", "wal"),
        ("synchronous", 2),
        ("recursive_triggers", 1),
        ("fullfsync", 1),
        ("checkpoint_fullfsync", 1),
        ("mmap_size", 0),
        ("trusted_schema", 0),
        ("cell_size_check", 1),
    ],
)
def test_connection_has_its_options(sqlite_store: SqliteEventStore, pragma: str, expected: object) -> None:
    """What durability rests on is set, not left to how SQLite was built."""
    assert sqlite_store._connection.execute(f"PRAGMA {pragma}").fetchone() == (expected,)


def test_columns_are_strict(sqlite_store: SqliteEventStore) -> None:
    """A text where a number belongs is refused by the table itself."""
    row = (1, "s", "one", "a", "T", 1, "", "{}", "")
    with pytest.raises(sqlite3.IntegrityError, match="cannot store TEXT"):
        sqlite_store._connection.execute("INSERT INTO events VALUES (?, ?, ?, ?, ?, ?, ?, ?, ?)", row)


def test_log_survives_reopening(sqlite_store: SqliteEventStore, log_path: Path) -> None:
    """A second store on the same file reads the same and goes on."""
    records = fill(sqlite_store)
    heads = sqlite_store.stream_heads()
    sqlite_store.close()
    with closing(SqliteEventStore(log_path)) as again:
        assert tuple(again.read_all()) == records
        assert again.stream_heads() == heads
        assert again.append(batch("run-1", "e", after=3)).records[0].position == 5


def test_two_stores_share_one_file(sqlite_store: SqliteEventStore, log_path: Path) -> None:
    """What one store appends the other sees at once, and both may write."""
    with closing(SqliteEventStore(log_path)) as other:
        fill(sqlite_store)
        other.append(batch("run-1", "e", after=3))
        sqlite_store.append(batch("run-1", "f", after=4))
        assert [record.event_id for record in other.read("run-1", after_version=3)] == ["e", "f"]


def test_reader_does_not_block_writer(sqlite_store: SqliteEventStore, log_path: Path) -> None:
    """A foreign reader inside its transaction keeps its view while appends go on."""
    fill(sqlite_store)
    with closing(sqlite3.connect(log_path, isolation_level=None)) as reader:
        reader.execute("BEGIN")
        assert reader.execute("SELECT count(*) FROM events").fetchone() == (4,)
        sqlite_store.append(batch("run-2", "e"))
        assert reader.execute("SELECT count(*) FROM events").fetchone() == (4,)


def test_files_are_private(sqlite_store: SqliteEventStore, log_path: Path) -> None:
    """Only the owner can read the log and what lies beside it."""
    fill(sqlite_store)
    modes = {path.name: stat.S_IMODE(path.stat().st_mode) for path in log_path.parent.iterdir()}
    assert modes == dict.fromkeys(
        ["events.db", "events.db-lock", "events.db-reserve", "events.db-shm", "events.db-wal"], 0o600
    )


def test_last_close_folds_side_files(sqlite_store: SqliteEventStore, log_path: Path) -> None:
    """After closing, the log is one file again; closing twice is harmless."""
    fill(sqlite_store)
    sqlite_store.close()
    sqlite_store.close()
    names = {path.name for path in log_path.parent.iterdir()}
    assert names == {"events.db", "events.db-lock", "events.db-reserve"}


def test_write_ahead_log_stays_bounded(sqlite_store: SqliteEventStore, log_path: Path) -> None:
    """Checkpoints happen on the way, not only at the end."""
    payload = '{"text":"' + "x" * 50_000 + '"}'
    for number in range(150):
        events = (event(f"e{number}", payload=payload),)
        sqlite_store.append(Batch(stream="s", events=events, expected_version=number))
    assert log_path.with_name("events.db-wal").stat().st_size < 6_000_000


def test_closed_store_refuses(sqlite_store: SqliteEventStore) -> None:
    """Using a closed store is an error of ours, not of SQLite."""
    sqlite_store.close()
    with pytest.raises(StoreError):
        sqlite_store.append(batch("s", "a"))
    with pytest.raises(StoreError):
        sqlite_store.head()


def test_held_lock_is_busy(sqlite_store: SqliteEventStore, log_path: Path) -> None:
    """An append that cannot have the lock in time says so, and readers do not care."""
    records = fill(sqlite_store)
    with (
        closing(SqliteEventStore(log_path, timeout_seconds=0.05)) as hurried,
        FileLock(log_path.with_name("events.db-lock"), timeout_seconds=0.0),
    ):
        with pytest.raises(StoreBusyError):
            hurried.append(batch("s", "a"))
        assert tuple(hurried.read_all()) == records


def test_close_does_not_need_the_lock(sqlite_store: SqliteEventStore, log_path: Path) -> None:
    """A store closes while another process holds the lock, without an error and without harm."""
    records = fill(sqlite_store)
    hurried = SqliteEventStore(log_path, timeout_seconds=0.05)
    with FileLock(log_path.with_name("events.db-lock"), timeout_seconds=0.0):
        hurried.close()
    with pytest.raises(StoreError):
        hurried.head()
    assert tuple(sqlite_store.read_all()) == records


def test_foreign_writer_is_busy(sqlite_store: SqliteEventStore, log_path: Path) -> None:
    """A program that writes without our lock is waited for, and named when it stays."""
    with closing(SqliteEventStore(log_path, timeout_seconds=0.05)) as hurried:
        sqlite_store._connection.execute("BEGIN IMMEDIATE")
        with pytest.raises(StoreBusyError):
            hurried.append(batch("s", "a"))
        sqlite_store._connection.execute("ROLLBACK")
        hurried.append(batch("s", "a"))


@pytest.mark.parametrize(
    "content", [b"no database, but longer than a header " * 20, b"SQLite format 3\x00" + bytes(200)]
)
def test_garbage_is_refused(log_path: Path, content: bytes) -> None:
    """A file that is no database is named and left as it was."""
    log_path.write_bytes(content)
    with pytest.raises(UnreadableLogError, match=r"events\.db"):
        SqliteEventStore(log_path)
    assert log_path.read_bytes() == content


def test_other_database_is_refused(log_path: Path) -> None:
    """The database of another program gets no tables of ours."""
    with closing(sqlite3.connect(log_path)) as raw:
        raw.execute("CREATE TABLE theirs (x)")
    content = log_path.read_bytes()
    with pytest.raises(UnreadableLogError, match="another program"):
        SqliteEventStore(log_path)
    assert log_path.read_bytes() == content


def test_newer_schema_is_refused(sqlite_store: SqliteEventStore, log_path: Path) -> None:
    """A log that a newer version has migrated is refused, and says what to do."""
    sqlite_store.close()
    with closing(sqlite3.connect(log_path)) as raw, raw:
        raw.execute("INSERT INTO _sqlite_migrations VALUES (9, 'event_store', 'add_more', '')")
    with pytest.raises(UnreadableLogError, match="add_more") as caught:
        SqliteEventStore(log_path)
    assert "Upgrade" in caught.value.hint


def test_missing_directory_is_an_error(tmp_path: Path) -> None:
    """The store makes its file, not the way to it."""
    with pytest.raises(StoreError) as caught:
        SqliteEventStore(tmp_path / "nowhere" / "events.db")
    assert caught.value.errno == 2


def test_restored_copy_uses_wal_again(sqlite_store: SqliteEventStore, tmp_path: Path) -> None:
    """A copy made by SQLite itself is not in write-ahead mode until it is opened here."""
    records = fill(sqlite_store)
    sqlite_store._connection.execute("VACUUM INTO ?", (str(tmp_path / "copy.db"),))
    with closing(SqliteEventStore(tmp_path / "copy.db")) as copy:
        assert copy._connection.execute("PRAGMA journal_mode").fetchone() == ("wal",)
        assert tuple(copy.read_all()) == records
        assert list(copy.verify()) == []


def test_rebuild_brings_back_lost_table(sqlite_store: SqliteEventStore) -> None:
    """A missing derived table is a clear error, and rebuilt from the log."""
    fill(sqlite_store)
    sqlite_store._connection.execute("DROP TABLE streams")
    with pytest.raises(UnreadableLogError, match="Rebuild"):
        sqlite_store.stream_heads()
    assert sqlite_store.rebuild(count) == 2
    assert list(sqlite_store.verify()) == []


def test_rebuild_corrects_rows(sqlite_store: SqliteEventStore) -> None:
    """Wrong, missing and surplus rows are counted and put right; right ones are not."""
    fill(sqlite_store)
    sqlite_store.append(batch("run-2", "e"))
    sqlite_store.rebuild(count)
    right = sqlite_store.stream_heads()
    for statement in (
        "UPDATE streams SET version = 7 WHERE stream = 'home'",
        "DELETE FROM streams WHERE stream = 'run-2'",
        "INSERT INTO streams VALUES ('ghost', 'ghost', 1, 1, 1, NULL, NULL)",
    ):
        sqlite_store._connection.execute(statement)
    assert sqlite_store.rebuild(count) == 3
    assert sqlite_store.stream_heads() == right


def test_append_inside_rebuild_is_refused(sqlite_store: SqliteEventStore) -> None:
    """A summary may read the log, not write to it; nothing of either remains."""
    fill(sqlite_store)
    before = sqlite_store.stream_heads()
    with pytest.raises(StoreError):
        sqlite_store.rebuild(lambda stream, _events: (str(sqlite_store.append(batch(stream, "x", after=9))), None))
    assert sqlite_store.stream_heads() == before
    assert sqlite_store.append(batch("run-2", "e")).records[0].position == 5


def test_full_database_writes_nothing(sqlite_store: SqliteEventStore, log_path: Path) -> None:
    """Without room even after the reserve, the append fails whole and the log stays good."""
    fill(sqlite_store)
    pages = sqlite_store._connection.execute("PRAGMA page_count").fetchone()[0]
    sqlite_store._connection.execute(f"PRAGMA max_page_count = {pages}")
    with pytest.raises(StoreFullError):
        sqlite_store.append(batch("s", *(f"e{number}" for number in range(1000))))
    assert not log_path.with_name("events.db-reserve").exists()
    assert sqlite_store.head().position == 4
    assert list(sqlite_store.verify()) == []


def test_reserve_comes_back(sqlite_store: SqliteEventStore, log_path: Path) -> None:
    """The next opening with room makes a reserve of real bytes again, and mends a short one."""
    reserve = log_path.with_name("events.db-reserve")
    assert sqlite_store._reserve.free()
    assert not sqlite_store._reserve.free()
    reserve.write_bytes(b"short")
    with closing(SqliteEventStore(log_path, reserve_bytes=100_000)):
        assert reserve.stat().st_size == 100_000
        assert reserve.stat().st_blocks * 512 >= 100_000


def test_reserve_needs_room(log_path: Path) -> None:
    """A reserve larger than the disk can spare is not made, and the log opens."""
    with closing(SqliteEventStore(log_path, reserve_bytes=2**60)) as store:
        fill(store)
    assert not log_path.with_name("events.db-reserve").exists()


def test_current_log_opens_without_sqlite_utils(sqlite_store: SqliteEventStore, log_path: Path) -> None:
    """Opening, appending, reading and listing load nothing heavy; only making the schema does."""
    fill(sqlite_store)
    script = (
        "import sys; from event_store.sqlite import SqliteEventStore; s = SqliteEventStore(sys.argv[1]);"
        "print(len(list(s.read_all())), len(s.stream_heads()), 'sqlite_utils' in sys.modules)"
    )
    done = subprocess.run(
        [sys.executable, "-c", script, log_path], cwd=ROOT, env=dict(os.environ), capture_output=True, check=True
    )
    assert done.stdout == b"4 2 False\n"


def test_listing_uses_index(sqlite_store: SqliteEventStore) -> None:
    """Unfinished runs are found by the index, however many finished ones there are."""
    fill(sqlite_store)
    plan = sqlite_store._connection.execute(f"EXPLAIN QUERY PLAN {schema.HEADS_OF_BOTH}", ("run", "[]")).fetchall()
    assert any("USING INDEX streams_by_status (category=? AND status=?)" in row[3] for row in plan)
