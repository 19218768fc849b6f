"""SAM's memory as a directory of `mem_*.json`: the text is the user's, only `embedding` is ours.

A chunk file is never serialised anew: the value's characters are replaced where they stand, everything else stays
byte for byte, whatever a newer SAM or the user put there.
"""

from __future__ import annotations

import json
import os
import re
from functools import partial
from hashlib import sha256
from itertools import islice
from typing import TYPE_CHECKING, Any, Final, NamedTuple

from sam_migrate.domain.generation import Chunk
from sam_migrate.errors import BadFileError
from sam_migrate.ports import VectorReport
from sam_migrate.sam.reading import patiently, read

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Iterator
    from pathlib import Path

    from sam_migrate.domain.generation import FieldValue
    from sam_migrate.ports import Advance, Disk, Edits, Heed

BATCH_FILES: Final = 500

_PREFIX: Final = "mem_"
_SUFFIX: Final = ".json"
_decode: Final = json.JSONDecoder().raw_decode
_space: Final = re.compile(r"[ \t\r\n]*").match
_opening: Final = re.compile(r"\s*\{(?:(\r?\n)([ \t]*))?").match


class Member(NamedTuple):
    """A member of a JSON object and where its value stands in the text."""

    value: Any
    start: int
    end: int


class MemoryStore:
    """The chunk files of one directory; safe to use while SAM writes there."""

    def __init__(self, directory: Path, disk: Disk, *, pause: Callable[[float], None]) -> None:
        """Remember where the chunks are; touches nothing."""
        self._directory = directory
        self._disk = disk
        self._pause = pause

    def count(self) -> int:
        """Count the chunk files by name alone."""
        return sum(1 for _ in self._names())

    def chunks(self) -> Iterator[Chunk]:
        """Read every chunk in the order of ids, those deleted meanwhile left out."""
        for chunk_id in sorted(self._names()):
            path = self._path(chunk_id)
            chunk = patiently(partial(self._read, path), self._pause)
            if chunk is not None:
                yield chunk

    def write_vectors(
        self, value: Callable[[Chunk], FieldValue], *, heed: Heed, advance: Advance, keep_unknown: bool = False
    ) -> VectorReport:
        """Give every chunk the vector that is right for its text as it is when the file is exchanged.

        A file that does not parse is come back to after all others and raises BadFileError if it stays so.
        """
        if not self._directory.is_dir():
            return VectorReport(written=0, unchanged=0, without_vector=0)
        self._disk.recover(self._directory)
        looks: list[_Look] = []

        def edit(chunk_id: str, edits: Edits) -> None:
            path = self._path(chunk_id)
            look = _Look(path.stem, self._name(path), value, keep_unknown=keep_unknown)
            look.written = edits.apply(path, look.change)
            looks.append(look)

        broken = []
        for batch in _batches(sorted(self._names())):
            with self._disk.edits() as edits:
                for chunk_id in batch:
                    heed()
                    try:
                        edit(chunk_id, edits)
                    except BadFileError:
                        # A live SAM may be in the middle of writing it: the others come first.
                        broken.append(chunk_id)
                    advance(1)
        for chunk_id in broken:
            heed()
            patiently(partial(self._again, partial(edit, chunk_id)), self._pause)
        return _report(looks)

    def _again(self, edit: Callable[[Edits], None]) -> None:
        with self._disk.edits() as edits:
            edit(edits)

    def _read(self, path: Path) -> Chunk | None:
        content = read(path, self._name(path))
        return None if content is None else parse_chunk(content, path.stem, self._name(path))[0]

    def _names(self) -> Iterator[str]:
        try:
            with os.scandir(self._directory) as entries:
                for entry in entries:
                    if entry.name.startswith(_PREFIX) and entry.name.endswith(_SUFFIX):
                        yield entry.name.removesuffix(_SUFFIX)
        except FileNotFoundError:
            return

    def _path(self, chunk_id: str) -> Path:
        return self._directory / f"{chunk_id}{_SUFFIX}"

    def _name(self, path: Path) -> str:
        return f"{self._directory.name}/{path.name}"


def members(text: str) -> dict[str, Member]:
    """Return the members of the JSON object that the text is; of equal keys the last counts, as everywhere.

    Raises ValueError where the text is not one JSON object.
    """
    at = _expect(text, 0, "{")
    found: dict[str, Member] = {}
    if text[at : at + 1] != "}":
        while True:
            key, at = _decode(text, at)
            if not isinstance(key, str):
                raise ValueError(f"expected a key at character {at}")  # noqa: TRY004 - the text is wrong, not a type of ours
            start = _expect(text, at, ":")
            content, end = _decode(text, start)
            found[key] = Member(content, start, end)
            at = _space(text, end).end()  # type: ignore[union-attr]  # it matches the empty string too
            if text[at : at + 1] == "}":
                break
            at = _expect(text, at, ",")
    if _expect(text, at, "}") != len(text):
        raise ValueError(f"something follows the object at character {at}")
    return found


def _expect(text: str, at: int, character: str) -> int:
    """Step over white space, the character and white space again."""
    at = _space(text, at).end()  # type: ignore[union-attr]  # it matches the empty string too
    if text[at : at + 1] != character:
        raise ValueError(f"expected {character!r} at character {at}")
    return _space(text, at + 1).end()  # type: ignore[union-attr]  # the same


def parse_chunk(content: bytes, chunk_id: str, name: str) -> tuple[Chunk, str, Member | None]:
    """Check a chunk file; return the chunk, the text and where its embedding stands, None when it has none."""
    try:
        text = content.decode("utf-8")
        found = members(text)
    except (ValueError, RecursionError) as error:
        raise BadFileError(name, f"is not a valid JSON object ({error})") from error
    words = found["content"].value if "content" in found else None
    if not isinstance(words, str):
        raise BadFileError(name, "its 'content' must be a text")
    if "chunk_id" not in found or found["chunk_id"].value != chunk_id:
        raise BadFileError(name, "its 'chunk_id' must be the file's name")
    embedding = found.get("embedding")
    chunk = Chunk(
        chunk_id=chunk_id,
        content=words,
        # JSON can spell lone surrogates; they have to hash to something.
        content_hash=sha256(words.encode("utf-8", "surrogatepass")).hexdigest(),
        embedding=embedding.value if embedding else None,
    )
    return chunk, text, embedding


class _Look:
    """The edit of one chunk file: called again with what somebody else wrote, it looks anew at the text."""

    def __init__(self, chunk_id: str, name: str, value: Callable[[Chunk], FieldValue], *, keep_unknown: bool) -> None:
        self._chunk_id = chunk_id
        self._name = name
        self._value = value
        self._keep_unknown = keep_unknown
        self.seen = False
        self.without = False
        self.written = False

    def change(self, content: bytes) -> bytes | None:
        """Return the file's bytes with the vector that is right for the text in them, None when they have it."""
        chunk, text, place = parse_chunk(content, self._chunk_id, self._name)
        wanted = self._value(chunk)
        self.seen = True
        self.without = not wanted.present or wanted.content is None
        if not wanted.present and self._keep_unknown:
            return None
        return _spliced(text, place, wanted.content if wanted.present else None)


def _report(looks: list[_Look]) -> VectorReport:
    """Count each file once; those that were gone before anybody saw their text do not count."""
    seen = [look for look in looks if look.seen]
    written = sum(1 for look in seen if look.written and not look.without)
    without = sum(1 for look in seen if look.without)
    return VectorReport(written=written, unchanged=len(seen) - written - without, without_vector=without)


def _spliced(text: str, place: Member | None, wanted: object) -> bytes | None:
    """Return the file's bytes with the embedding `wanted`, or None when it holds just that."""
    opening = _opening(text)
    line, pad = (opening[1], opening[2]) if opening else (None, None)
    value = _format(wanted, line or "", pad or "")
    if place is None:
        if wanted is None:
            return None
        at = opening.end() if opening else 0
        glue = f"{line}{pad}" if line else " "
        return f'{text[:at]}"embedding": {value},{glue}{text[at:]}'.encode()
    if text[place.start : place.end] == value or _same(place.value, wanted):
        return None
    return f"{text[: place.start]}{value}{text[place.end :]}".encode()


def _same(found: object, wanted: object) -> bool:
    """Tell whether two JSON values are the same to the bit: -0.0 is not 0.0, and 1 is not 1.0."""
    return bool(found == wanted) and repr(found) == repr(wanted)


def _format(value: object, line: str, pad: str) -> str:
    """Write the value as `json.dump` would at this indentation; long flat lists by the fast encoder."""
    if not line or not value or not isinstance(value, list):
        return json.dumps(value)
    inner = f"{line}{pad}{pad}"
    flat = json.dumps(value, separators=(f",{inner}", ": "))
    return f"[{inner}{flat[1:-1]}{line}{pad}]"


def _batches(names: Iterable[str]) -> Iterator[list[str]]:
    source = iter(names)
    while batch := list(islice(source, BATCH_FILES)):
        yield batch
