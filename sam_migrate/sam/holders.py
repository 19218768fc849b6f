"""Every store of vectors SAM may have in its home, and whether its vectors can follow a generation."""

from __future__ import annotations

import json
import os
import sqlite3
from pathlib import Path
from typing import TYPE_CHECKING, Final

from sam_migrate.ports import Holder

if TYPE_CHECKING:
    from collections.abc import Iterator

DEPTH_MAX: Final = 4

_CHROMA: Final = (("memory_store", "memory_store/chroma_db"), ("web interface", "web_ui/chroma_db"))
_LONG_TERM: Final = (
    "memory_store/long_term_memory.json",
    "memory_store/memory_store.json",
    "long_term_memory.json",
    "memory_store.json",
)
_SKIPPED: Final = frozenset({"node_modules", "__pycache__", "venv", "site-packages", "sam_migrate"})
_FOLLOWS: Final = "its vectors follow the generation"
_EMPTY: Final = "holds no vectors"
_OPAQUE: Final = "holds vectors that cannot be made anew yet"


def find_holders(home: Path) -> tuple[Holder, ...]:
    """List the stores that are there; a store without vectors, or independent of the engine, is supported."""
    return tuple(_found(home))


def _found(home: Path) -> Iterator[Holder]:
    memory = home / "memory_store"
    if memory.is_dir():
        yield _holder("memory files", "memory_store", _FOLLOWS, supported=True)
    if (memory / "faiss_index.bin").exists():
        yield _holder("memory FAISS index", "memory_store/faiss_index.bin", _OPAQUE, supported=False)
    for name, place in _CHROMA:
        if (home / place).is_dir():
            yield _chroma(f"{name} Chroma database", home, place)
    if _has_files(memory / "encrypted"):
        reason = "its texts can be read in an unlocked session only"
        yield _holder("encrypted memory", "memory_store/encrypted", reason, supported=False)
    yield from _vector_manager(home)
    for place in _LONG_TERM:
        if (home / place).exists():
            yield _long_term(home, place)
    if (home / "chroma_db_v2").is_dir():
        reason = "its vectors come from the document pipeline and do not depend on the engine"
        yield _holder("document summaries (v2)", "chroma_db_v2", reason, supported=True)
    for path in _edit_masks(home):
        place = path.parent.relative_to(home).as_posix()
        reason = "is bound to the activations of the present model and cannot be made anew"
        yield _holder("edit masks", place, reason, supported=False)


def _holder(name: str, path: str, reason: str, *, supported: bool) -> Holder:
    return Holder(name=name, path=path, supported=supported, reason=reason)


def _has_files(directory: Path) -> bool:
    return any(names for _, _, names in os.walk(directory))


def _chroma(name: str, home: Path, place: str) -> Holder:
    database = home / place / "chroma.sqlite3"
    if not database.exists():
        # Whatever else lies there is not a Chroma database we know how to look into.
        empty = not _has_files(home / place)
        return _holder(name, place, _EMPTY if empty else _OPAQUE, supported=empty)
    try:
        empty = not _rows(database, "embeddings") and not _rows(database, "embeddings_queue")
    except sqlite3.Error as error:
        return _holder(name, place, f"cannot be looked into ({error})", supported=False)
    return _holder(name, place, _EMPTY if empty else _OPAQUE, supported=empty)


def _rows(database: Path, table: str) -> bool:
    connection = sqlite3.connect(f"{database.absolute().as_uri()}?mode=ro", uri=True)
    try:
        return connection.execute(f"SELECT 1 FROM {table} LIMIT 1").fetchone() is not None  # noqa: S608 - our constants
    finally:
        connection.close()


def _vector_manager(home: Path) -> Iterator[Holder]:
    name, place = "vector manager", "data/vector_store"
    directory = home / place
    if (directory / "vectors.pkl").exists():
        # Never opened: unpickling runs whatever the file says.
        yield _holder(name, place, _OPAQUE, supported=False)
    elif (directory / "faiss_index.bin").exists():
        metadata = _json(directory / "metadata.json")
        empty = isinstance(metadata, dict) and metadata.get("metadata_store") == {}
        yield _holder(name, place, _EMPTY if empty else _OPAQUE, supported=empty)


def _long_term(home: Path, place: str) -> Holder:
    name = "long-term memory"
    document = _json(home / place)
    memories = document.get("memories") if isinstance(document, dict) else None
    if not isinstance(memories, list) or not all(isinstance(memory, dict) for memory in memories):
        return _holder(name, place, "has another form than SAM gives it", supported=False)
    empty = all(memory.get("embedding") is None for memory in memories)
    return _holder(name, place, _EMPTY if empty else _OPAQUE, supported=empty)


def _json(path: Path) -> object:
    try:
        return json.loads(path.read_bytes())
    except (OSError, ValueError, RecursionError):
        return None


def _edit_masks(home: Path) -> Iterator[Path]:
    """Look for edit masks, whose directory each caller in SAM chooses."""
    for directory, below, names in os.walk(home):
        depth = len(Path(directory).relative_to(home).parts)
        below[:] = sorted(n for n in below if depth < DEPTH_MAX and n not in _SKIPPED and not n.startswith("."))
        index = "faiss_index.bin" in names or "vectors.pkl" in names
        if index and "edit_metadata.json" in names:
            yield Path(directory, "edit_metadata.json")
