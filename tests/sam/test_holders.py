"""Every store of vectors is found, and only those that follow or need not are supported."""

from __future__ import annotations

import json
import sqlite3
from typing import TYPE_CHECKING

import pytest

if TYPE_CHECKING:
    from pathlib import Path

    from sam_migrate.demo.home import SampleHome
    from sam_migrate.sam.home import SamHome


def _put(path: Path, content: bytes = b"x") -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(content)


def _chroma(directory: Path, rows: int) -> None:
    directory.mkdir(parents=True)
    with sqlite3.connect(directory / "chroma.sqlite3") as database:
        for table in ("embeddings", "embeddings_queue"):
            database.execute(f"CREATE TABLE {table} (id)")
        database.executemany("INSERT INTO embeddings VALUES (?)", [(row,) for row in range(rows)])
    database.close()


def _found(home: SamHome) -> dict[str, bool]:
    return {holder.path: holder.supported for holder in home.holders()}


def test_plain_home_has_one_holder(home: SamHome) -> None:
    """A home with memory files alone is supported."""
    assert _found(home) == {"memory_store": True}


@pytest.mark.parametrize(
    ("file", "holder"),
    [
        ("memory_store/faiss_index.bin", "memory_store/faiss_index.bin"),
        ("memory_store/encrypted/data.bin", "memory_store/encrypted"),
        ("memory_store/chroma_db/data.bin", "memory_store/chroma_db"),
        ("web_ui/chroma_db/chroma.sqlite3", "web_ui/chroma_db"),
        ("data/vector_store/faiss_index.bin", "data/vector_store"),
        ("data/vector_store/vectors.pkl", "data/vector_store"),
        ("memory_store/long_term_memory.json", "memory_store/long_term_memory.json"),
        ("memory_store.json", "memory_store.json"),
    ],
)
def test_foreign_store_is_not_supported(home: SamHome, sample: SampleHome, file: str, holder: str) -> None:
    """A store we cannot make anew names itself and says why."""
    _put(sample.path / file)
    assert _found(home)[holder] is False
    assert all(found.reason for found in home.holders())


def test_edit_masks_are_found_anywhere(home: SamHome, sample: SampleHome) -> None:
    """Edit masks lie where their caller wants them."""
    _put(sample.path / "data/memoir/masks/faiss_index.bin")
    _put(sample.path / "data/memoir/masks/edit_metadata.json")
    assert _found(home)["data/memoir/masks"] is False


def test_document_vectors_need_nothing(home: SamHome, sample: SampleHome) -> None:
    """The v2 store does not depend on the engine."""
    _chroma(sample.path / "chroma_db_v2", 3)
    assert _found(home)["chroma_db_v2"] is True


@pytest.mark.parametrize(("rows", "supported"), [(0, True), (1, False)])
def test_chroma_counts_when_it_holds_vectors(home: SamHome, sample: SampleHome, rows: int, supported: bool) -> None:  # noqa: FBT001 - a parameter
    """An empty Chroma database is no obstacle, one with vectors is."""
    _chroma(sample.path / "memory_store/chroma_db", rows)
    before = (sample.path / "memory_store/chroma_db/chroma.sqlite3").read_bytes()
    assert _found(home)["memory_store/chroma_db"] is supported
    assert (sample.path / "memory_store/chroma_db/chroma.sqlite3").read_bytes() == before


@pytest.mark.parametrize(("embedding", "supported"), [(None, True), ([0.1], False)], ids=["null", "vector"])
def test_long_term_memory_counts_with_vectors(
    home: SamHome,
    sample: SampleHome,
    embedding: list[float] | None,
    supported: bool,  # noqa: FBT001 - a parameter
) -> None:
    """Memories without vectors are no obstacle."""
    memories = {"memories": [{"memory_id": "a", "content": "b", "embedding": embedding}]}
    _put(sample.path / "memory_store/long_term_memory.json", json.dumps(memories).encode())
    assert _found(home)["memory_store/long_term_memory.json"] is supported


def test_empty_directories_hold_nothing(home: SamHome, sample: SampleHome) -> None:
    """Directories SAM made and never filled are no obstacle."""
    for place in ("memory_store/chroma_db", "memory_store/encrypted", "data/vector_store"):
        (sample.path / place).mkdir(parents=True)
    _put(sample.path / "data/vector_store/faiss_index.bin")
    _put(sample.path / "data/vector_store/metadata.json", b'{"metadata_store": {}}')
    assert all(_found(home).values())
