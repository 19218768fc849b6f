"""Vectors change, texts never: whatever SAM, the user or a kill does to the chunk files meanwhile."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time
from hashlib import sha256
from random import Random
from threading import Thread
from typing import TYPE_CHECKING, Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from sam_migrate.demo.home import add_chunk, chunk_path, delete_chunk, edit_chunk, vector
from sam_migrate.domain.generation import Chunk, FieldValue
from sam_migrate.errors import BadFileError, StopRequested
from sam_migrate.sam.home import SamHome
from sam_migrate.sam.memory_store import members

if TYPE_CHECKING:
    from collections.abc import Callable

    from sam_migrate.demo.home import SampleHome
    from sam_migrate.ports import VectorReport

JSON = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False) | st.text(),
    lambda inner: st.lists(inner) | st.dictionaries(st.text(), inner),
    max_leaves=12,
)

_KILLED = """
import os, signal, sys
from pathlib import Path
from sam_migrate.adapters.disk import LocalDisk
from sam_migrate.domain.generation import FieldValue
from sam_migrate.sam.home import SamHome
left = int(sys.argv[2])
def value(chunk):
    return FieldValue(present=True, content=[1.5, 2.5])
def advance(_):
    global left
    left -= 1
    if not left:
        os.kill(os.getpid(), signal.SIGKILL)
SamHome(Path(sys.argv[1]), LocalDisk()).write_vectors(value, heed=lambda: None, advance=advance)
"""


def _new(chunk: Chunk) -> FieldValue:
    """Give every text a vector of its own, of another width."""
    digest = sha256(b"new" + chunk.content.encode()).digest()
    return FieldValue(present=True, content=[byte / 256 for byte in digest[:8]])


def _write(home: SamHome, value: Callable[[Chunk], FieldValue], **options: bool) -> VectorReport:
    return home.write_vectors(value, heed=lambda: None, advance=lambda _: None, **options)


def _files(sample: SampleHome) -> dict[str, bytes]:
    return {path.name: path.read_bytes() for path in (sample.path / "memory_store").iterdir()}


def _load(sample: SampleHome, chunk_id: str) -> dict[str, Any]:
    return dict(json.loads(chunk_path(sample.path, chunk_id).read_bytes()))


def _first(sample: SampleHome) -> str:
    return min(sample.texts)


@given(st.dictionaries(st.text(), JSON), st.sampled_from([None, 0, 2, "\t"]), st.booleans())
def test_members_are_what_json_reads(document: dict[str, Any], indent: int | str | None, ascii_only: bool) -> None:  # noqa: FBT001 - Hypothesis passes it
    """The members found, and the text at their places, are what the standard parser gives."""
    text = json.dumps(document, indent=indent, ensure_ascii=ascii_only)
    found = members(text)
    assert {key: member.value for key, member in found.items()} == document
    assert [json.loads(text[at.start : at.end]) for at in found.values()] == list(document.values())


@pytest.mark.parametrize(
    "text", ["", "[]", "{", '{"a"}', '{"a":}', '{"a":1,}', '{"a":1}x', '{"a":1 "b":2}', "{1:2}", '{"a":1']
)
def test_broken_object_has_no_members(text: str) -> None:
    """What the standard parser refuses is refused here."""
    with pytest.raises(ValueError, match=r"."):
        members(text)


def test_chunks_come_in_order(home: SamHome, sample: SampleHome) -> None:
    """Every chunk is read, in the order of ids, its hash computed by us."""
    chunks = list(home.chunks())
    assert [chunk.chunk_id for chunk in chunks] == sorted(sample.texts)
    assert {chunk.chunk_id: chunk.content for chunk in chunks} == sample.texts
    assert chunks[0].content_hash == sha256(chunks[0].content.encode()).hexdigest()
    assert chunks[0].embedding == vector(chunks[0].content)


def test_recorded_hash_is_not_believed(home: SamHome, sample: SampleHome) -> None:
    """A text edited by hand has the hash of what it is now, whatever the file says."""
    path = chunk_path(sample.path, _first(sample))
    path.write_text(json.dumps({**_load(sample, _first(sample)), "content": "by hand"}))
    assert next(home.chunks()).content_hash == sha256(b"by hand").hexdigest()


def test_count_reads_nothing(home: SamHome, sample: SampleHome) -> None:
    """Chunks are counted by name, other files in the directory left out."""
    (sample.path / "memory_store/long_term_memory.json").write_text("{}")
    (sample.path / "memory_store/.mem_x.json.tmp").write_text("{}")
    (sample.path / "memory_store/mem_broken.json").write_text("{")
    assert home.chunk_count() == 13


def test_missing_store_is_empty(home: SamHome, sample: SampleHome) -> None:
    """A home without memory has no chunks, and nothing is made."""
    (sample.path / "memory_store").rename(sample.path / "elsewhere")
    assert (home.chunk_count(), list(home.chunks())) == (0, [])
    assert _write(home, _new).written == 0
    assert not (sample.path / "memory_store").exists()


@pytest.mark.parametrize(
    "content",
    [
        b"",
        b'{"chunk_id": "mem_bad", "content": "a"',
        b'{"chunk_id": "mem_other", "content": "a"}',
        b'{"content": "a"}',
        b'{"chunk_id": "mem_bad"}',
        b'{"chunk_id": "mem_bad", "content": 1}',
        b"[1]",
        b"\xff",
    ],
    ids=["empty", "cut", "other-id", "no-id", "no-text", "number", "list", "bytes"],
)
def test_bad_chunk_is_named_and_kept(home: SamHome, sample: SampleHome, content: bytes) -> None:
    """A file that is no chunk is refused by name and left as it is, after all others were written."""
    bad = sample.path / "memory_store/mem_bad.json"
    bad.write_bytes(content)
    with pytest.raises(BadFileError, match=r"memory_store/mem_bad\.json"):
        list(home.chunks())
    with pytest.raises(BadFileError, match=r"memory_store/mem_bad\.json"):
        _write(home, _new)
    assert bad.read_bytes() == content
    assert all(len(_load(sample, chunk_id)["embedding"]) == 8 for chunk_id in sample.texts)


def test_linked_chunk_is_refused(home: SamHome, sample: SampleHome) -> None:
    """A link in the place of a chunk is not followed."""
    (sample.path / "memory_store/mem_link.json").symlink_to("/etc/passwd")
    with pytest.raises(BadFileError, match="mem_link"):
        list(home.chunks())


def test_pipe_does_not_hang(home: SamHome, sample: SampleHome) -> None:
    """A FIFO in the place of a chunk is refused rather than waited for."""
    os.mkfifo(sample.path / "memory_store/mem_pipe.json")
    with pytest.raises(BadFileError, match="mem_pipe"):
        list(home.chunks())


def test_only_the_embedding_changes(home: SamHome, sample: SampleHome) -> None:
    """All bytes but the vector's stay: order, spacing, escapes, numbers and keys of a newer SAM."""
    path = chunk_path(sample.path, _first(sample))
    text = '{"x":1e5,"content" : "a\\u00e9", "embedding":[1],\n"chunk_id":"ID", "big": 1.10}\n'.replace("ID", path.stem)
    path.write_text(text)
    _write(home, lambda _: FieldValue(present=True, content=[0.5, -0.0]))
    assert path.read_text() == text.replace("[1]", "[0.5, -0.0]")


def test_vector_is_written_in_sams_style(home: SamHome, sample: SampleHome) -> None:
    """The file is what SAM itself would have written with the new vector."""
    expected = _load(sample, _first(sample)) | {"embedding": [0.25, 1.0, -0.0]}
    _write(home, lambda _: FieldValue(present=True, content=[0.25, 1.0, -0.0]))
    text = chunk_path(sample.path, _first(sample)).read_text()
    assert text == json.dumps(expected, indent=2, ensure_ascii=False)


def test_missing_embedding_is_added(home: SamHome, sample: SampleHome) -> None:
    """A file without the key gets it, everything else in place."""
    path = chunk_path(sample.path, _first(sample))
    fields = {key: value for key, value in _load(sample, path.stem).items() if key != "embedding"}
    for indent in (None, 2):
        path.write_text(json.dumps(fields, indent=indent))
        _write(home, lambda _: FieldValue(present=True, content=[0.5]))
        assert _load(sample, path.stem) == {"embedding": [0.5], **fields}


def test_round_trip_restores_bytes(home: SamHome, sample: SampleHome) -> None:
    """New vectors and the captured ones again: every file is as it was, byte for byte."""
    before = _files(sample)
    captured = {chunk.chunk_id: chunk.embedding for chunk in home.chunks()}
    assert _write(home, _new).written == 12
    assert _files(sample).keys() == before.keys()
    assert _files(sample) != before
    _write(home, lambda chunk: FieldValue(present=True, content=captured[chunk.chunk_id]))
    assert _files(sample) == before


@pytest.mark.parametrize(
    "value", [None, [], 0, "text", {"a": [1]}, [[1, 2], {"b": None}], [1e-07, 1e300, -0.0, 5e-324], [float("nan")]]
)
def test_any_old_value_comes_back(home: SamHome, sample: SampleHome, value: object) -> None:
    """Whatever somebody wrote there comes back to the bit."""
    path = chunk_path(sample.path, _first(sample))
    path.write_text(json.dumps({**_load(sample, path.stem), "embedding": value}, indent=2))
    captured = next(home.chunks()).embedding
    _write(home, _new)
    _write(home, lambda _: FieldValue(present=True, content=captured))
    assert repr(next(home.chunks()).embedding) == repr(value)


def test_second_time_writes_nothing(home: SamHome, sample: SampleHome) -> None:
    """What is right already is not touched."""
    _write(home, _new)
    before = {path: path.stat().st_ino for path in (sample.path / "memory_store").iterdir()}
    report = _write(home, _new)
    assert (report.written, report.unchanged, report.without_vector) == (0, 12, 0)
    assert {path: path.stat().st_ino for path in before} == before


def test_equal_numbers_of_other_bits_are_written(home: SamHome, sample: SampleHome) -> None:
    """0.0 is not -0.0 and 1 is not 1.0."""
    _write(home, lambda _: FieldValue(present=True, content=[0.0, 1]))
    assert _write(home, lambda _: FieldValue(present=True, content=[-0.0, 1.0])).written == 12
    assert repr(_load(sample, _first(sample))["embedding"]) == "[-0.0, 1.0]"


def test_absent_vector_becomes_null(home: SamHome, sample: SampleHome) -> None:
    """A text the generation has no vector for is stored without one, and counted."""
    report = _write(home, lambda _: FieldValue())
    assert (report.written, report.unchanged, report.without_vector) == (0, 0, 12)
    assert _load(sample, _first(sample))["embedding"] is None


def test_absent_vector_can_be_left(home: SamHome, sample: SampleHome) -> None:
    """With `keep_unknown` it keeps the vector it has."""
    before = _files(sample)
    assert _write(home, lambda _: FieldValue(), keep_unknown=True).without_vector == 12
    assert _files(sample) == before


def test_edit_between_read_and_exchange_wins(home: SamHome, sample: SampleHome) -> None:
    """A text the user changes while we have the old one in hand survives, with the vector of the new one."""
    chunk_id = _first(sample)
    edited: list[bool] = []

    def value(chunk: Chunk) -> FieldValue:
        if chunk.chunk_id == chunk_id and not edited:
            edited.append(True)
            edit_chunk(sample.path, chunk_id, "quite another text")
        return _new(chunk)

    _write(home, value)
    assert _load(sample, chunk_id)["content"] == "quite another text"
    assert _load(sample, chunk_id)["embedding"] == _new(next(home.chunks())).content


def test_chunk_deleted_meanwhile_stays_deleted(home: SamHome, sample: SampleHome) -> None:
    """A file the user deletes while we have it in hand is not made again."""

    def value(chunk: Chunk) -> FieldValue:
        delete_chunk(sample.path, _first(sample))
        return _new(chunk)

    _write(home, value)
    assert sorted(path.stem for path in (sample.path / "memory_store").iterdir()) == sorted(sample.texts)[1:]


def test_chunk_added_meanwhile_is_kept(home: SamHome, sample: SampleHome) -> None:
    """A file that appears while we write is there afterwards, and has its vector the next time."""

    def value(chunk: Chunk) -> FieldValue:
        add_chunk(sample.path, "added while writing")
        return _new(chunk)

    _write(home, value)
    assert home.chunk_count() == 13
    assert _write(home, _new).written == 1


def test_torn_chunk_is_waited_for(sample: SampleHome, home: SamHome) -> None:
    """A file caught in the middle of SAM's writing is come back to and gets its vector."""
    path = chunk_path(sample.path, _first(sample))
    whole = path.read_bytes()
    path.write_bytes(whole[:100])

    def finish(_: float) -> None:
        path.write_bytes(whole)

    patient = SamHome(sample.path, home._disk, pause=finish)
    assert _write(patient, _new).written == 12
    assert _load(sample, path.stem)["content"] == sample.texts[path.stem]


def test_texts_survive_a_busy_writer(sample: SampleHome, home: SamHome) -> None:
    """SAM rewrites files in place all the time: its last text of each is there, and in the end its vector."""
    texts, random = dict(sample.texts), Random(1)  # noqa: S311 - a test, not a secret
    done: list[bool] = []

    def sam() -> None:
        for number in range(150):
            chunk_id = random.choice(sorted(texts))
            texts[chunk_id] = f"text number {number}"
            edit_chunk(sample.path, chunk_id, texts[chunk_id])
        done.append(True)

    patient = SamHome(sample.path, home._disk, pause=time.sleep)
    writer = Thread(target=sam)
    writer.start()
    while not done:
        _write(patient, _new)
    writer.join()
    _write(patient, _new)
    assert {chunk.chunk_id: chunk.content for chunk in home.chunks()} == texts
    assert [chunk.embedding for chunk in home.chunks()] == [_new(chunk).content for chunk in home.chunks()]
    assert home.chunk_count() == len(list((sample.path / "memory_store").iterdir()))


@pytest.mark.parametrize("left", [1, 7, 12])
def test_kill_loses_nothing(sample: SampleHome, home: SamHome, left: int) -> None:
    """After a kill every text is there under its name, SAM sees no stray file, and the next run completes the work."""
    command = [sys.executable, "-c", _KILLED, str(sample.path), str(left)]
    assert subprocess.run(command, check=False).returncode == -signal.SIGKILL
    assert {chunk.chunk_id: chunk.content for chunk in home.chunks()} == sample.texts
    assert len(list((sample.path / "memory_store").glob("*.json"))) == 12
    _write(home, lambda _: FieldValue(present=True, content=[1.5, 2.5]))
    assert {tuple(chunk.embedding) for chunk in home.chunks()} == {(1.5, 2.5)}
    assert len(list((sample.path / "memory_store").iterdir())) == 12


def test_stop_is_heeded(sample: SampleHome, home: SamHome) -> None:
    """A request to stop ends the work at the next file; what was staged until then is whole."""
    heeds = iter(range(12))

    def heed() -> None:
        if next(heeds) == 5:
            raise StopRequested("pause")

    with pytest.raises(StopRequested):
        home.write_vectors(_new, heed=heed, advance=lambda _: None)
    assert {chunk.chunk_id: chunk.content for chunk in home.chunks()} == sample.texts
    assert _write(home, _new).written == 7


def test_progress_counts_files(home: SamHome) -> None:
    """Every chunk file advances the work by one."""
    steps: list[int] = []
    home.write_vectors(_new, heed=lambda: None, advance=steps.append)
    assert steps == [1] * 12
