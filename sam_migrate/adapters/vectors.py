"""The vectors of one generation in one SQLite file, keyed by content hash, durable batch by batch.

The file is complete by itself: no write-ahead log lies beside it. Knows nothing of generations or manifests.
"""

from __future__ import annotations

import hashlib
import json
import sqlite3
import sys
import threading
from array import array
from contextlib import contextmanager, suppress
from itertools import islice
from typing import TYPE_CHECKING, Any, Final

from sam_migrate.domain.generation import FieldValue, VectorSet
from sam_migrate.errors import FailedError, IntegrityError, WaitingError

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator, Sequence
    from pathlib import Path

    from sam_migrate.domain.generation import Chunk
    from sam_migrate.ports import VectorIndex, Vectors

LOCK_WAIT_SECONDS: Final = 30.0
ASKED_AT_ONCE: Final = 500
CAPTURED_AT_ONCE: Final = 256

# `usable` tells a vector from null and from whatever else somebody wrote there; such values are kept, but give way.
_SCHEMA: Final = (
    "CREATE TABLE IF NOT EXISTS facts (name TEXT PRIMARY KEY, content INTEGER NOT NULL) STRICT",
    """CREATE TABLE IF NOT EXISTS vectors (
        content_hash TEXT NOT NULL,
        chunk_id TEXT NOT NULL,
        encoding TEXT NOT NULL CHECK (encoding IN ('f4', 'f8', 'json')),
        vector BLOB NOT NULL,
        usable INTEGER NOT NULL CHECK (usable IN (0, 1)),
        sealed INTEGER NOT NULL CHECK (sealed IN (0, 1)),
        PRIMARY KEY (content_hash, chunk_id)
    ) STRICT""",
)
# The chunk's own value first, unless it is no vector; then the text's vector, then any chunk's of the same text.
_VALUE: Final = """
    SELECT encoding, vector FROM vectors
    WHERE content_hash = :content_hash AND (chunk_id IN (:chunk_id, '') OR usable)
    ORDER BY usable DESC, chunk_id = :chunk_id DESC, chunk_id LIMIT 1
"""
_CAUSES: Final = {
    sqlite3.SQLITE_FULL: ("space", "Free some disk space, then resume."),
    sqlite3.SQLITE_IOERR: ("io", "Check the disk (see the system log), then resume."),
    sqlite3.SQLITE_READONLY: ("read_only", "Make the file and its file system writable, then resume."),
    sqlite3.SQLITE_CANTOPEN: ("file", "Check the permissions of the directory and the limit on open files."),
    sqlite3.SQLITE_PERM: ("file", "Give this user permission to read and write it, then resume."),
    sqlite3.SQLITE_BUSY: ("file", "Another program keeps the file locked; stop it, then resume."),
}


class SqliteVectors:
    """The VectorIndex port; may be used by several threads, one at a time."""

    def __init__(self, path: Path, *, dimension: int) -> None:
        """Open the file, making it when it is not there; `dimension` 0 means not known yet."""
        self.path = path
        self.dimension = dimension
        self._guard = threading.RLock()
        self._matrix: tuple[tuple[int, int], list[str], Any] | None = None
        with self._told():
            self._connection = sqlite3.connect(
                path, timeout=LOCK_WAIT_SECONDS, isolation_level=None, check_same_thread=False
            )
        try:
            self._prepare()
        except BaseException:
            self._connection.close()
            raise

    def missing(self, hashes: Iterable[str]) -> list[str]:
        """Return those hashes, in the given order and once each, that have no vector yet."""
        wanted = list(dict.fromkeys(hashes))
        found: set[str] = set()
        with self._told():
            for start in range(0, len(wanted), ASKED_AT_ONCE):
                asked = wanted[start : start + ASKED_AT_ONCE]
                marks = ",".join("?" * len(asked))
                sql = f"SELECT content_hash FROM vectors WHERE usable AND content_hash IN ({marks})"  # noqa: S608 - marks only
                found.update(row[0] for row in self._connection.execute(sql, asked))
        return [content_hash for content_hash in wanted if content_hash not in found]

    def put(self, hashes: Sequence[str], vectors: Vectors) -> None:
        """Store one batch (n hashes, n x dimension float32) in one durable transaction. Idempotent."""
        if not len(hashes):
            return
        dimension = self.dimension or self._fact("dimension") or int(vectors.shape[-1])
        if vectors.shape != (len(hashes), dimension):
            raise FailedError(
                f"the engine gave vectors of shape {tuple(vectors.shape)}; {len(hashes)} of {dimension} floats are due"
            )
        rows = vectors.astype("<f4", copy=False)
        with self._transaction():
            self._set_fact("dimension", dimension)
            self._insert(
                (content_hash, "", "f4", rows[number].tobytes(), 1) for number, content_hash in enumerate(hashes)
            )
        self.dimension = dimension

    def capture(self, chunks: Iterable[Chunk]) -> int:
        """Keep the chunks' own JSON embedding values, bit for bit, keyed by chunk and hash; return how many are new."""
        added = 0
        remaining = iter(chunks)
        while batch := list(islice(remaining, CAPTURED_AT_ONCE)):
            with self._transaction():
                added += self._insert(
                    (chunk.content_hash, chunk.chunk_id, *_encode(chunk.embedding)) for chunk in batch
                )
        return added

    def value(self, chunk: Chunk) -> FieldValue:
        """Return the JSON value this generation gives the chunk's `embedding`; absent when it has none."""
        keys = {"content_hash": chunk.content_hash, "chunk_id": chunk.chunk_id}
        with self._told():
            row = self._connection.execute(_VALUE, keys).fetchone()
        return FieldValue() if row is None else FieldValue(present=True, content=_decode(*row))

    def search(self, vector: Sequence[float], *, limit: int) -> list[tuple[str, float]]:
        """Return the content hashes of the nearest vectors and their dot products, best first."""
        import numpy as np  # noqa: PLC0415 - whoever only reads the state must not pay for it

        asked = np.asarray(vector, dtype=np.float32)
        hashes, matrix = self._all_vectors(len(asked))
        if not hashes or limit <= 0:
            return []
        products = matrix @ asked
        best = np.argsort(-products, kind="stable")[:limit]
        return [(hashes[place], float(products[place])) for place in best]

    def copy_from(self, source: VectorIndex) -> None:
        """Take over every vector of another generation's index of the same embedder, in one transaction."""
        if not isinstance(source, SqliteVectors):
            raise TypeError(f"{type(source).__name__} is not an index in a file")
        if source.dimension and self.dimension and source.dimension != self.dimension:
            raise FailedError(f"{source.path} holds vectors of {source.dimension} floats; {self.dimension} are due")
        with self._told():
            self._connection.execute("ATTACH ? AS source", (str(source.path),))
            try:
                with self._transaction():
                    self._set_fact("dimension", self.dimension or source.dimension)
                    self._connection.execute(
                        "INSERT OR IGNORE INTO main.vectors SELECT content_hash, chunk_id, encoding, vector, usable, ?"
                        " FROM source.vectors",
                        (self._mark(),),
                    )
            finally:
                self._connection.execute("DETACH source")
        self.dimension = self.dimension or source.dimension

    def seal(self) -> VectorSet:
        """Make everything durable and return count and digest of what is there; later additions are kept apart.

        Sealing again takes in what was added since: only who has not yet recorded the first answer may do so.
        """
        with self._transaction():
            self._connection.execute("UPDATE vectors SET sealed = 1 WHERE sealed = 0")
            self._set_fact("sealed", 1)
        return self.sealed()

    def sealed(self) -> VectorSet:
        """Compute count and digest of what was there when it was sealed."""
        digest = hashlib.sha256()
        count = 0
        sql = (
            "SELECT content_hash, chunk_id, encoding, vector FROM vectors WHERE sealed ORDER BY content_hash, chunk_id"
        )
        with self._told():
            for content_hash, chunk_id, encoding, vector in self._connection.execute(sql):
                count += 1
                for part in (content_hash.encode(), chunk_id.encode(), encoding.encode(), vector):
                    digest.update(len(part).to_bytes(8, "big"))
                    digest.update(part)
        digest.update(count.to_bytes(8, "big"))
        return VectorSet(count=count, sha256=digest.hexdigest())

    def sealed_count(self) -> int:
        """Count what was there when it was sealed, without reading it."""
        with self._told():
            return int(self._connection.execute("SELECT count(*) FROM vectors WHERE sealed").fetchone()[0])

    def close(self) -> None:
        """Release the file."""
        with self._guard:
            self._matrix = None
            self._connection.close()

    def _prepare(self) -> None:
        with self._told():
            # One file must be the whole index, so no WAL. TRUNCATE with FULL syncs the journal's end as well; with
            # DELETE a power cut could bring the journal back and undo a batch that was reported durable.
            self._connection.execute("PRAGMA journal_mode = TRUNCATE")
            self._connection.execute("PRAGMA synchronous = FULL")
            # On macOS plain fsync stops at the drive's cache.
            self._connection.execute("PRAGMA fullfsync = ON")
            tables = self._connection.execute("SELECT count(*) FROM sqlite_schema WHERE type = 'table'").fetchone()[0]
            if tables < len(_SCHEMA):
                with self._transaction():
                    for statement in _SCHEMA:
                        self._connection.execute(statement)
        known = self._fact("dimension")
        if known and self.dimension and known != self.dimension:
            raise FailedError(f"{self.path} holds vectors of {known} floats; the engine makes {self.dimension}")
        self.dimension = self.dimension or known

    def _insert(self, rows: Iterable[tuple[str, str, str, bytes, int]]) -> int:
        mark = self._mark()
        before = self._connection.total_changes
        self._connection.executemany(
            "INSERT OR IGNORE INTO vectors (content_hash, chunk_id, encoding, vector, usable, sealed)"
            " VALUES (?, ?, ?, ?, ?, ?)",
            ((*row, mark) for row in rows),
        )
        return self._connection.total_changes - before

    def _mark(self) -> int:
        """Return what new rows carry: before the seal they belong to what will be sealed, afterwards they do not."""
        return 0 if self._fact("sealed") else 1

    def _fact(self, name: str) -> int:
        with self._told():
            row = self._connection.execute("SELECT content FROM facts WHERE name = ?", (name,)).fetchone()
        return int(row[0]) if row else 0

    def _set_fact(self, name: str, content: int) -> None:
        if content and self._fact(name) != content:
            self._connection.execute("INSERT OR REPLACE INTO facts (name, content) VALUES (?, ?)", (name, content))

    def _all_vectors(self, dimension: int) -> tuple[list[str], Any]:
        """Return hashes and matrix of all vectors of that dimension, read again only when the file changed."""
        import numpy as np  # noqa: PLC0415 - whoever only reads the state must not pay for it

        sql = "SELECT content_hash, encoding, vector FROM vectors WHERE encoding <> 'json' ORDER BY 1, chunk_id"
        with self._told():
            theirs = int(self._connection.execute("PRAGMA data_version").fetchone()[0])
            version = (theirs, self._connection.total_changes)
            if self._matrix is None or self._matrix[0] != version or self._matrix[2].shape[1] != dimension:
                rows: dict[str, Any] = {}
                for content_hash, encoding, vector in self._connection.execute(sql):
                    floats = np.frombuffer(vector, dtype=f"<{encoding}")
                    if len(floats) == dimension:
                        rows.setdefault(content_hash, floats.astype(np.float32, copy=False))
                matrix = np.stack(list(rows.values())) if rows else np.empty((0, dimension), dtype=np.float32)
                self._matrix = (version, list(rows), matrix)
            return self._matrix[1], self._matrix[2]

    @contextmanager
    def _transaction(self) -> Iterator[None]:
        with self._told():
            self._connection.execute("BEGIN IMMEDIATE")
            try:
                yield
                self._connection.execute("COMMIT")
            except BaseException:
                with suppress(sqlite3.Error):  # a full disk may have rolled back already
                    self._connection.execute("ROLLBACK")
                raise

    @contextmanager
    def _told(self) -> Iterator[None]:
        """Keep other threads out, and turn SQLite's errors into ours."""
        with self._guard:
            try:
                yield
            except sqlite3.Error as error:
                code = getattr(error, "sqlite_errorcode", 0) & 0xFF
                if code in _CAUSES:
                    waiting_for, hint = _CAUSES[code]
                    raise WaitingError(waiting_for, f"{self.path}: {error}", hint=hint) from error
                raise IntegrityError(
                    f"{self.path}: {error}", hint="Build this generation anew, or go back to one that is complete."
                ) from error


def _encode(embedding: Any) -> tuple[str, bytes, int]:  # noqa: ANN401 - any JSON value
    """Return encoding, bytes and whether it is a vector; the shortest encoding that gives the very same JSON back."""
    if isinstance(embedding, list) and embedding:
        if all(type(number) is float for number in embedding):
            single = array("f", embedding)
            if single.tolist() == embedding:
                return "f4", _little(single), 1
            return "f8", _little(array("d", embedding)), 1
        usable = all(type(number) in (int, float) for number in embedding)
        return "json", json.dumps(embedding).encode(), int(usable)
    return "json", json.dumps(embedding).encode(), 0


def _decode(encoding: str, vector: bytes) -> Any:  # noqa: ANN401 - any JSON value
    if encoding == "json":
        return json.loads(vector)
    numbers = array("f" if encoding == "f4" else "d")
    numbers.frombytes(vector)
    if sys.byteorder == "big":
        numbers.byteswap()
    return numbers.tolist()


def _little(numbers: array[float]) -> bytes:
    if sys.byteorder == "big":
        numbers.byteswap()
    return numbers.tobytes()
