"""The tables, triggers and statements of a log in SQLite; only text."""

from __future__ import annotations

MIGRATION_SET = "event_store"
MIGRATIONS = ("create_log",)
"""Names of the migrations in their order; a log that knows another name was written by a newer version."""

OBJECTS = {
    # STRICT: a column never holds another type than it says, whoever writes.
    "events": """CREATE TABLE events (
  position INTEGER PRIMARY KEY,
  stream TEXT NOT NULL,
  version INTEGER NOT NULL,
  event_id TEXT NOT NULL UNIQUE,
  type TEXT NOT NULL,
  schema INTEGER NOT NULL,
  recorded_at TEXT NOT NULL,
  data TEXT NOT NULL,
  hash TEXT NOT NULL,
  UNIQUE (stream, version)
) STRICT""",
    "events_refuse_update": """CREATE TRIGGER events_refuse_update BEFORE UPDATE ON events
BEGIN SELECT RAISE(ABORT, 'events are append-only'); END""",
    "events_refuse_delete": """CREATE TRIGGER events_refuse_delete BEFORE DELETE ON events
BEGIN SELECT RAISE(ABORT, 'events are append-only'); END""",
    "streams": """CREATE TABLE streams (
  stream TEXT NOT NULL PRIMARY KEY,
  category TEXT NOT NULL,
  version INTEGER NOT NULL,
  position INTEGER NOT NULL,
  first_position INTEGER NOT NULL,
  status TEXT,
  summary TEXT
) STRICT""",
    # Finds the unfinished runs without reading the finished ones.
    "streams_by_status": "CREATE INDEX streams_by_status ON streams (category, status, first_position)",
}

DERIVED_OBJECTS = ("streams", "streams_by_status")

APPLIED = "SELECT name FROM _sqlite_migrations WHERE migration_set = ? ORDER BY id"
TABLES = "SELECT name FROM sqlite_master WHERE type = 'table' AND name NOT LIKE 'sqlite!_%' ESCAPE '!'"
DEFINITIONS = "SELECT name, sql FROM sqlite_master WHERE sql IS NOT NULL AND tbl_name IN ('events', 'streams')"

TIP = "SELECT position, hash, recorded_at FROM events ORDER BY position DESC LIMIT 1"
VERSION_AND_TIP = """SELECT (SELECT version FROM events WHERE stream = ? ORDER BY version DESC LIMIT 1),
position, hash, recorded_at FROM events ORDER BY position DESC LIMIT 1"""
INSERT_EVENT = "INSERT INTO events VALUES (?, ?, ?, ?, ?, ?, ?, ?, ?)"
# The usual append leaves the status as it is: this writes no index page.
ADVANCE_STREAM = """UPDATE streams SET version = ?3, position = ?4, summary = coalesce(?7, summary)
WHERE stream = ?1 AND (?6 IS NULL OR status IS ?6)"""
UPSERT_STREAM = """INSERT INTO streams VALUES (?1, ?2, ?3, ?4, ?5, ?6, ?7) ON CONFLICT (stream) DO UPDATE SET
version = excluded.version, position = excluded.position, status = excluded.status,
summary = coalesce(excluded.summary, summary)"""

_RECORDS = "SELECT position, stream, version, event_id, type, schema, recorded_at, data, hash FROM events"
EVENT_BY_ID = _RECORDS + " WHERE event_id = ?"
STREAM_PAGE = _RECORDS + " WHERE stream = ? AND version > ? AND position <= ? ORDER BY version LIMIT ?"
LOG_PAGE = _RECORDS + " WHERE position > ? AND position <= ? ORDER BY position LIMIT ?"
LOG = _RECORDS + " ORDER BY position"

EXTENTS = """SELECT stream, max(version), max(position), min(position) FROM events
GROUP BY stream ORDER BY min(position)"""
DERIVED = "SELECT * FROM streams"
DERIVED_EXTENTS = "SELECT stream, category, version, position, first_position FROM streams"

HEAD = DERIVED + " WHERE stream = ?"
HEADS = DERIVED + " ORDER BY first_position"
HEADS_OF_CATEGORY = DERIVED + " WHERE category = ? ORDER BY first_position"
HEADS_OF_STATUSES = DERIVED + " WHERE status IN (SELECT value FROM json_each(?)) ORDER BY first_position"  # noqa: S608 - constants
HEADS_OF_BOTH = DERIVED + " WHERE category = ? AND status IN (SELECT value FROM json_each(?)) ORDER BY first_position"  # noqa: S608 - constants
