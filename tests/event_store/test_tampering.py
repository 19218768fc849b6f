"""Whatever somebody changes behind the store's back, `verify` finds it, and never raises."""

from __future__ import annotations

import sqlite3
from contextlib import closing
from typing import TYPE_CHECKING

import pytest

from event_store import MemoryEventStore, UnreadableLogError, chain
from event_store.sqlite import SqliteEventStore
from tests.event_store.samples import fill

if TYPE_CHECKING:
    from pathlib import Path

    from event_store import Problem

DROP = "DROP TRIGGER events_refuse_update; DROP TRIGGER events_refuse_delete;"
TRIGGERS = "SELECT sql FROM sqlite_master WHERE type = 'trigger'"


def tamper(path: Path, script: str) -> list[Problem]:
    """Fill a log, close it, run the script with the triggers out of the way, and verify."""
    with closing(SqliteEventStore(path)) as store:
        fill(store)
    with closing(sqlite3.connect(path)) as raw:
        triggers = ";".join(f"{sql}" for (sql,) in raw.execute(TRIGGERS))
        raw.executescript(f"{DROP} {script}; {triggers};")
    with closing(SqliteEventStore(path)) as store:
        return list(store.verify())


@pytest.mark.parametrize(
    ("script", "where"),
    [
        ("UPDATE events SET data = replace(data, '\"n\":1', '\"n\":2') WHERE position = 2", {"position 2"}),
        ("UPDATE events SET type = 'Other' WHERE position = 3", {"position 3"}),
        ("UPDATE events SET schema = 2 WHERE position = 1", {"position 1"}),
        ("UPDATE events SET recorded_at = '2020-01-01T00:00:00+00:00' WHERE position = 1", {"position 1"}),
        ("UPDATE events SET event_id = 'z' WHERE position = 4", {"position 4"}),
        ("UPDATE events SET stream = 'run-9' WHERE position = 4", {"position 4", "run-9", "home"}),
        ("UPDATE events SET version = 9 WHERE position = 3", {"position 3", "run-1"}),
        ("UPDATE events SET hash = lower(hex(randomblob(32))) WHERE position = 2", {"position 2", "position 3"}),
        ("UPDATE events SET data = CAST(X'FF00FF' AS TEXT) WHERE position = 2", {"position 2"}),
        ("UPDATE events SET stream = CAST(X'FF' AS TEXT) WHERE position = 4", {"position 4", "home", "\ufffd"}),
        ("DELETE FROM events WHERE position = 2", {"position 3"}),
        ("DELETE FROM events WHERE position = 4", {"home"}),
        ("DELETE FROM events", {"home", "run-1"}),
        (
            """UPDATE events SET position = 20 WHERE position = 2; UPDATE events SET position = 2 WHERE position = 3;
            UPDATE events SET position = 3 WHERE position = 20""",
            {"position 2", "position 3", "position 4", "run-1"},
        ),
        (
            """INSERT INTO events SELECT 5, stream, 4, 'new', type, schema, recorded_at, data, hash FROM events
            WHERE position = 3""",
            {"position 5", "run-1"},
        ),
    ],
    ids=[
        "body",
        "type",
        "schema",
        "time",
        "id",
        "stream",
        "version",
        "hash",
        "not-utf8",
        "name-not-utf8",
        "removed",
        "last-removed",
        "all-removed",
        "swapped",
        "added",
    ],
)
def test_verify_finds_changed_history(log_path: Path, script: str, where: set[str]) -> None:
    """Every edit shows, at the record where the chain no longer holds."""
    problems = tamper(log_path, script)
    assert {problem.where for problem in problems} == where


def test_verify_reports_each_damage_once(log_path: Path) -> None:
    """One flipped byte is one problem: what follows is judged by itself."""
    problems = tamper(log_path, "UPDATE events SET data = replace(data, '\"n\":1', '\"n\":2') WHERE position = 1")
    assert [(problem.kind, problem.where) for problem in problems] == [("chain", "position 1")]


@pytest.mark.parametrize(
    "script",
    [
        "UPDATE streams SET version = 2 WHERE stream = 'run-1'",
        "UPDATE streams SET position = 1 WHERE stream = 'run-1'",
        "UPDATE streams SET first_position = 3 WHERE stream = 'run-1'",
        "UPDATE streams SET category = 'x' WHERE stream = 'run-1'",
        "DELETE FROM streams WHERE stream = 'run-1'",
        "UPDATE streams SET stream = 'run-1 ' WHERE stream = 'home'; DELETE FROM streams WHERE stream = 'run-1'",
    ],
)
def test_verify_finds_changed_derived_row(log_path: Path, script: str) -> None:
    """What was derived is compared with the log, and told apart from damage to it."""
    problems = tamper(log_path, script)
    assert {problem.kind for problem in problems} == {"derived"}
    assert "run-1" in {problem.where for problem in problems}


@pytest.mark.parametrize(
    ("script", "kind", "where"),
    [
        ("DROP TRIGGER events_refuse_update", "chain", "events_refuse_update"),
        (
            """DROP TRIGGER events_refuse_delete; CREATE TRIGGER events_refuse_delete BEFORE DELETE ON events
            BEGIN SELECT 1; END""",
            "chain",
            "events_refuse_delete",
        ),
        ("CREATE TRIGGER quiet AFTER INSERT ON events BEGIN SELECT 1; END", "chain", "quiet"),
        ("DROP INDEX streams_by_status", "derived", "streams_by_status"),
        ("DROP TABLE streams", "derived", "streams"),
        ("DROP TABLE events", "chain", "events"),
    ],
)
def test_verify_finds_changed_schema(log_path: Path, script: str, kind: str, where: str) -> None:
    """A trigger, table or index that is missing, other or new is a problem."""
    with closing(SqliteEventStore(log_path)) as store:
        fill(store)
        store._connection.executescript(script)
        assert (kind, where) in {(problem.kind, problem.where) for problem in store.verify()}


def test_verify_survives_broken_pages(log_path: Path) -> None:
    """A file damaged below the level of records is a problem too, not an exception."""
    with closing(SqliteEventStore(log_path)) as store:
        fill(store)
    with closing(sqlite3.connect(log_path)) as raw:
        (page,) = raw.execute("SELECT rootpage FROM sqlite_master WHERE name = 'events'").fetchone()
    content = bytearray(log_path.read_bytes())
    content[(page - 1) * 4096 : page * 4096] = b"\xff" * 4096
    log_path.write_bytes(content)
    with closing(SqliteEventStore(log_path)) as store:
        (problem,) = store.verify()
    assert (problem.kind, problem.where) == ("chain", "after position 0")


def test_verify_reports_vanished_file(sqlite_store: SqliteEventStore, log_path: Path) -> None:
    """A log that somebody moved away is reported."""
    fill(sqlite_store)
    log_path.rename(log_path.with_suffix(".gone"))
    assert [problem.kind for problem in sqlite_store.verify()] == ["chain"]


@pytest.mark.parametrize("bad", ["CAST(X'FF' AS TEXT)", "'{}'"])
def test_reading_damaged_record_is_clear(log_path: Path, bad: str) -> None:
    """A record that cannot be decoded is an error that names the file and the way out."""
    tamper(log_path, f"UPDATE events SET data = {bad} WHERE position = 2")  # noqa: S608 - of this test
    with closing(SqliteEventStore(log_path)) as store, pytest.raises(UnreadableLogError, match="Verify the log"):
        list(store.read_all())


def test_memory_store_is_audited_too() -> None:
    """The reference finds a changed record and a changed head."""
    store = MemoryEventStore()
    fill(store)
    store._rows[1] = (*store._rows[1][:7], "{}", store._rows[1][8])
    store._heads["home"] = store._heads["run-1"]
    assert {(p.kind, p.where) for p in store.verify()} == {
        ("chain", "position 2"),
        ("derived", "run-1"),
        ("derived", "home"),
    }


def test_audit_survives_rows_that_are_none() -> None:
    """A table remade without its constraints can hold anything; the next record is still judged."""
    rows = [(1, *[None] * 8), (2, *[7] * 8)]
    assert [problem.where for problem in chain.Audit().chain(rows)] == ["position 1", "position 2"]
