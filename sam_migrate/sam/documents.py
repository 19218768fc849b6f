"""SAM's JSON documents: parsed strictly, changed field by field, written back in the file's own style."""

from __future__ import annotations

import json
import os
import re
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final

from sam_migrate.domain.generation import FieldValue
from sam_migrate.errors import BadFileError
from sam_migrate.ports import EditReport
from sam_migrate.sam.reading import patiently, read

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    from sam_migrate.domain.generation import FieldChange
    from sam_migrate.ports import Disk

ABSENT: Final = FieldValue()

# The element of a list is named by this key of its own; parents of these names are made as lists.
ELEMENT_KEY: Final = "migration_id"
_LISTS: Final = frozenset({"migration_notes"})
# Stock SAM loads nothing but defaults from a file with a top-level key it does not declare. So a section that only
# we made goes when our last field in it goes.
_VANISHING: Final = frozenset({"engine_upgrade"})

_INDENTED: Final = re.compile(rb'\s*\{(\r?\n)([ \t]+)"')
_COLON: Final = re.compile(rb'\s*\{\s*"(?:[^"\\]|\\.)*"\s*:(\s?)')


def parse(content: bytes, name: str) -> dict[str, Any]:
    """Parse a document whose top level is an object; raise BadFileError naming what is wrong."""
    try:
        document = json.loads(content.decode("utf-8"))
    except (ValueError, RecursionError) as error:
        raise BadFileError(name, f"is not valid JSON ({error})") from error
    if not isinstance(document, dict):
        raise BadFileError(name, "must hold a JSON object")
    return document


def render(document: dict[str, Any], like: bytes) -> bytes:
    """Serialise in the style of `like`: key order, indentation, line ends, escapes, what follows the last brace."""
    indented = _INDENTED.match(like)
    if indented:
        text = _dump(document, ascii_only=like.isascii(), indent=indented[2].decode(), separators=(",", ": "))
        text = text.replace("\n", indented[1].decode())
    elif _COLON.match(like):
        colon = ": " if _COLON.match(like)[1] else ":"  # type: ignore[index]  # matched in the line above
        comma = "," if colon == ":" else ", "
        text = _dump(document, ascii_only=like.isascii(), indent=None, separators=(comma, colon))
    else:
        text = _dump(document, ascii_only=True, indent="  ", separators=(",", ": "))
    tail = like[len(like.rstrip()) :]
    return text.encode() + tail


def _dump(document: dict[str, Any], *, ascii_only: bool, indent: str | None, separators: tuple[str, str]) -> str:
    text = json.dumps(document, ensure_ascii=ascii_only, indent=indent, separators=separators)
    if not ascii_only and any("\ud800" <= character <= "\udfff" for character in text):
        # A lone surrogate can only be written as an escape; UTF-8 has no form for it.
        return json.dumps(document, ensure_ascii=True, indent=indent, separators=separators)
    return text


def same(one: FieldValue, other: FieldValue) -> bool:
    """Tell whether two values are the same JSON: 1, 1.0 and true are three different things."""
    if one.present != other.present:
        return False
    return not one.present or json.dumps(one.content, sort_keys=True) == json.dumps(other.content, sort_keys=True)


def get_field(document: dict[str, Any], path: Sequence[str]) -> FieldValue:
    """Return the value at the path, or its absence."""
    found = FieldValue(present=True, content=document)
    for key in path:
        found = _child(found.content, key)
        if not found.present:
            return ABSENT
    return found


def set_field(document: dict[str, Any], path: Sequence[str], value: FieldValue) -> bool:
    """Set or remove the value at the path; missing parents are made (null counts as missing).

    Returns False, with nothing changed, where a parent is neither object nor list: that is somebody else's value.
    """
    node: Any = document
    for key in path[:-1]:
        found = _child(node, key)
        if not isinstance(found.content, dict | list):
            if not value.present:
                return True
            if found.content is not None:
                return False
            found = FieldValue(present=True, content=_parent(node, key))
            _put(node, key, found)
        node = found.content
    _put(node, path[-1], value)
    if not value.present and path[0] in _VANISHING and document.get(path[0]) == {}:
        del document[path[0]]
    return True


def _parent(node: object, key: str) -> dict[str, Any] | list[Any]:
    if isinstance(node, list):
        return {ELEMENT_KEY: key}
    return [] if key in _LISTS else {}


def _child(node: object, key: str) -> FieldValue:
    if isinstance(node, dict) and key in node:
        return FieldValue(present=True, content=node[key])
    if isinstance(node, list):
        for element in node:
            if isinstance(element, dict) and element.get(ELEMENT_KEY) == key:
                return FieldValue(present=True, content=element)
    return ABSENT


def _put(node: dict[str, Any] | list[Any], key: str, value: FieldValue) -> None:
    if isinstance(node, dict):
        if value.present:
            node[key] = value.content
        else:
            node.pop(key, None)
        return
    found = _child(node, key)
    at = next((index for index, element in enumerate(node) if element is found.content), len(node))
    node[at : at + 1] = [value.content] if value.present else []


def merge(document: dict[str, Any], changes: Sequence[FieldChange]) -> EditReport:
    """Apply changes three-way in place: what still is `before` becomes `after`, everything else is the user's."""
    applied = 0
    kept: list[FieldChange] = []
    for change in changes:
        live = get_field(document, change.path)
        if same(live, change.after):
            continue
        if same(live, change.before) and set_field(document, change.path, change.after):
            applied += 1
        else:
            kept.append(change)
    return EditReport(applied=applied, kept=tuple(kept))


def read_document(path: Path, name: str, *, pause: Callable[[float], None]) -> dict[str, Any]:
    """Parse the document; {} when there is no such file."""

    def attempt() -> dict[str, Any]:
        content = read(path, name, follow=True)
        return {} if content is None else parse(content, name)

    return patiently(attempt, pause)


def edit_document(
    disk: Disk, path: Path, name: str, changes: Sequence[FieldChange], *, pause: Callable[[float], None]
) -> EditReport:
    """Merge changes into the file by exchange; a missing one is made when all it lacks is ours.

    Idempotent. A file that does not parse, for a whole second, is left alone and raises BadFileError.
    """
    report = EditReport(applied=0, kept=())

    def change(document: dict[str, Any]) -> bool:
        nonlocal report
        report = merge(document, changes)
        return report.applied > 0

    if not path.exists():
        if any(each.before.present for each in changes):
            return EditReport(applied=0, kept=tuple(each for each in changes if not same(each.after, ABSENT)))
        if all(same(each.after, ABSENT) for each in changes):
            return report
        make_document(path)
    rewrite(disk, path, name, change, pause=pause)
    return report


def make_document(path: Path) -> None:
    """Make an empty document unless there is one; a kill right after it leaves `{}`, which reads like no file."""
    path.parent.mkdir(parents=True, exist_ok=True)
    try:
        # Exclusive: SAM may be making the same file right now, and then its content counts.
        with path.open("xb") as file:
            file.write(b"{}")
    except FileExistsError:
        return


def rewrite(
    disk: Disk, path: Path, name: str, change: Callable[[dict[str, Any]], bool], *, pause: Callable[[float], None]
) -> bool:
    """Let `change` alter the parsed document in place and write it back by exchange when it returns True."""
    # The exchange must happen where the file is: a link to it stays a link.
    target = Path(os.path.realpath(path))

    def edit(content: bytes) -> bytes | None:
        document = parse(content, name)
        return render(document, content) if change(document) else None

    def attempt() -> bool:
        with disk.edits() as edits:
            return edits.apply(target, edit)

    return patiently(attempt, pause)
