"""Documents keep their style, and fields change only where the user has not."""

from __future__ import annotations

import json
import time
from threading import Thread
from typing import TYPE_CHECKING, Any

import pytest

from sam_migrate.adapters.disk import LocalDisk
from sam_migrate.domain.generation import FieldChange, FieldValue
from sam_migrate.errors import BadFileError
from sam_migrate.sam.documents import ABSENT, edit_document, get_field, merge, parse, read_document, render, set_field

if TYPE_CHECKING:
    from pathlib import Path

    from sam_migrate.ports import EditReport


def _value(content: object) -> FieldValue:
    return FieldValue(present=True, content=content)


def _change(*path: str, before: FieldValue, after: FieldValue) -> FieldChange:
    return FieldChange(document="configuration", path=path, before=before, after=after)


def _edit(path: Path, *changes: FieldChange) -> EditReport:
    return edit_document(LocalDisk(), path, path.name, changes, pause=lambda _: None)


@pytest.mark.parametrize(
    "content",
    [
        b'{"b": 1, "a": [1, 2]}',
        b'{"b":1,"a":[1,2]}',
        b'{\n  "b": 1,\n  "a": [\n    1\n  ]\n}\n',
        b'{\n\t"b": 1.5,\n\t"a": {}\n}',
        b'{\r\n    "b": null,\r\n    "a": true\r\n}\r\n',
        b'{\n "b": "\\u00e9"\n}',
        '{\n "b": "é"\n}'.encode(),
        b"{}",
    ],
    ids=["spaced", "compact", "two", "tab", "windows", "escaped", "utf8", "empty"],
)
def test_style_survives(content: bytes) -> None:
    """A document nobody changed is written back byte for byte."""
    assert render(parse(content, "x"), content) == content


def test_lone_surrogate_is_escaped() -> None:
    """What UTF-8 cannot spell stays an escape, also in a file that has other letters plain."""
    content = '{"a": "é", "b": "\\ud800"}'.encode()
    assert json.loads(render(parse(content, "x"), content)) == json.loads(content)


@pytest.mark.parametrize(
    "content",
    [b"", b"{", b"[]", b'"a"', b"\xff{}", b'{"a":' + b"[" * 100_000],
    ids=["empty", "cut", "list", "text", "bytes", "deep"],
)
def test_bad_document_is_refused(content: bytes) -> None:
    """What is not a JSON object is refused with the file's name."""
    with pytest.raises(BadFileError, match=r"sam_config\.json"):
        parse(content, "sam_config.json")


def test_list_element_is_named_by_migration() -> None:
    """A path through a list names the element whose `migration_id` it is."""
    document = {"notes": [{"migration_id": "m1", "action": "a"}, {"action": "old"}]}
    assert get_field(document, ("notes", "m1", "action")) == _value("a")
    assert get_field(document, ("notes", "m2")) == ABSENT


def test_missing_parents_are_made() -> None:
    """Setting a field makes the objects above it, and `migration_notes` as a list."""
    document: dict[str, Any] = {"stats": None}
    note = {"migration_id": "m1", "action": "a"}
    assert set_field(document, ("stats", "migration_notes", "m1"), _value(note))
    assert document == {"stats": {"migration_notes": [note]}}


def test_absent_value_removes() -> None:
    """An absent value takes the key or the element away and leaves its neighbours."""
    document = {"a": {"b": 1, "c": 2}, "notes": [{"migration_id": "m1"}, {"x": 1}]}
    set_field(document, ("a", "b"), ABSENT)
    set_field(document, ("notes", "m1"), ABSENT)
    set_field(document, ("gone", "b"), ABSENT)
    assert document == {"a": {"c": 2}, "notes": [{"x": 1}]}


def test_foreign_parent_is_kept() -> None:
    """A text where an object should be is the user's: nothing is set, and the report says so."""
    document: dict[str, Any] = {"engine_upgrade": "mine"}
    change = _change("engine_upgrade", "active_engine_id", before=ABSENT, after=_value("x"))
    assert merge(document, [change]).kept == (change,)
    assert document == {"engine_upgrade": "mine"}


def test_types_are_told_apart() -> None:
    """1, 1.0 and true are three values: a field of another type was changed by the user."""
    document = {"a": True}
    assert len(merge(document, [_change("a", before=_value(1), after=_value(2))]).kept) == 1
    assert document == {"a": True}


def test_edit_is_three_way(tmp_path: Path) -> None:
    """The old value becomes the new one, the new one stays, any other is the user's and is reported."""
    path = tmp_path / "c.json"
    path.write_text('{"old": 1, "new": 2, "user": 9, "else": [1]}')
    changes = [_change(key, before=_value(1), after=_value(2)) for key in ("old", "new", "user")]
    report = _edit(path, *changes)
    assert (report.applied, report.kept) == (1, (changes[2],))
    assert path.read_text() == '{"old": 2, "new": 2, "user": 9, "else": [1]}'


def test_edit_is_idempotent(tmp_path: Path) -> None:
    """The second time there is nothing to do, and the file is not touched."""
    path = tmp_path / "c.json"
    path.write_text('{"a": 1}')
    change = _change("a", before=_value(1), after=_value(2))
    _edit(path, change)
    before = path.stat()
    assert _edit(path, change).applied == 0
    assert path.stat().st_ino == before.st_ino


def test_missing_document_is_made(tmp_path: Path) -> None:
    """A file that is not there is made when all fields were absent before."""
    path = tmp_path / "sub" / "c.json"
    assert _edit(path, _change("a", "b", before=ABSENT, after=_value(1))).applied == 1
    assert json.loads(path.read_bytes()) == {"a": {"b": 1}}


def test_deleted_document_stays_deleted(tmp_path: Path) -> None:
    """A file that had our fields and is gone now was deleted by the user; it is not made again."""
    path = tmp_path / "c.json"
    change = _change("a", before=_value(1), after=_value(2))
    assert _edit(path, change).kept == (change,)
    assert not path.exists()


def test_half_made_document_is_completed(tmp_path: Path) -> None:
    """A kill right after the file was made leaves `{}`, and the next edit fills it."""
    path = tmp_path / "c.json"
    path.write_bytes(b"{}")
    assert _edit(path, _change("a", before=ABSENT, after=_value(1))).applied == 1
    assert json.loads(path.read_bytes()) == {"a": 1}


def test_broken_document_is_untouched(tmp_path: Path) -> None:
    """A file that does not parse is never overwritten."""
    path = tmp_path / "c.json"
    path.write_bytes(b'{"a": 1')
    with pytest.raises(BadFileError, match=r"c\.json"):
        _edit(path, _change("a", before=ABSENT, after=_value(1)))
    assert path.read_bytes() == b'{"a": 1'


def test_linked_document_stays_linked(tmp_path: Path) -> None:
    """An edit through a link changes the file it points to and leaves the link."""
    real, link = tmp_path / "real.json", tmp_path / "c.json"
    real.write_text('{"a": 1}')
    link.symlink_to(real)
    _edit(link, _change("a", before=_value(1), after=_value(2)))
    assert link.is_symlink()
    assert json.loads(real.read_bytes()) == {"a": 2}


def test_torn_document_is_waited_for(tmp_path: Path) -> None:
    """A file caught in the middle of SAM's writing is read again until it is whole."""
    path = tmp_path / "c.json"
    path.write_bytes(b"")
    pieces = iter([b"{", b'{"a"', b'{"a": 1}'])

    def pause(_: float) -> None:
        path.write_bytes(next(pieces))

    assert read_document(path, "c.json", pause=pause) == {"a": 1}


def test_other_writers_fields_survive(tmp_path: Path) -> None:
    """While SAM rewrites the file over and over, its last value and ours are both there in the end."""
    path = tmp_path / "c.json"
    path.write_text('{"theirs": 0}')

    def sam() -> None:
        for number in range(1, 60):
            document = json.loads(path.read_bytes())
            path.write_text(json.dumps({**document, "theirs": number}))

    writer = Thread(target=sam)
    writer.start()
    change = _change("ours", before=ABSENT, after=_value(1))
    edit_document(LocalDisk(), path, path.name, [change], pause=time.sleep)
    writer.join()
    edit_document(LocalDisk(), path, path.name, [change], pause=time.sleep)
    assert json.loads(path.read_bytes()) == {"theirs": 59, "ours": 1}
