"""What a log needs rarely: its schema made or brought up to date, its derived table rewritten.

The only importer of sqlite_utils, which takes as long to load as all the rest: opening a log that is current does
without it, and so does the append, whose statements are counted.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from sqlite_utils import Database, Migrations

from event_store import schema

if TYPE_CHECKING:
    import sqlite3
    from collections.abc import Iterable

    from event_store.records import DerivedRow

_migrations = Migrations(schema.MIGRATION_SET)


@_migrations(name="create_log")
def _create_log(database: Database) -> None:
    for definition in schema.OBJECTS.values():
        database.execute(definition)


def migrate(connection: sqlite3.Connection) -> None:
    """Apply the migrations that are missing; the caller holds the log's lock and an open transaction.

    `Migrations.apply` from two processes fails in one of them, hence the lock. In a transaction its steps nest as
    savepoints: a crash leaves the schema before or after, never between.
    """
    _migrations.apply(Database(connection, execute_plugins=False))


def restore_derived(connection: sqlite3.Connection) -> None:
    """Make the derived table anew, empty, unless it is there as it should be; in the caller's transaction."""
    database = Database(connection, execute_plugins=False)
    found = dict(connection.execute(schema.DEFINITIONS).fetchall())
    if all(found.get(name) == schema.OBJECTS[name] for name in schema.DERIVED_OBJECTS):
        return
    database.table("streams").drop(ignore=True)
    for name in schema.DERIVED_OBJECTS:
        database.execute(schema.OBJECTS[name])


def rewrite_derived(connection: sqlite3.Connection, rows: Iterable[DerivedRow], *, surplus: Iterable[str]) -> None:
    """Write these rows and remove those of the surplus streams; in the caller's transaction."""
    table = Database(connection, execute_plugins=False).table("streams")
    for stream in surplus:
        table.delete(stream)
    columns = [column.name for column in table.columns]
    table.upsert_all((dict(zip(columns, row, strict=True)) for row in rows), pk="stream")
