"""The catalog is read and never written; the list of downloads stays in SAM's own form."""

from __future__ import annotations

import json
from datetime import UTC, datetime
from typing import TYPE_CHECKING, Any

import pytest

from sam_migrate.errors import BadFileError

if TYPE_CHECKING:
    from pathlib import Path

    from sam_migrate.demo.home import SampleHome
    from sam_migrate.sam.home import SamHome

AT = datetime(2025, 6, 1, 10, tzinfo=UTC)


def _models(sample: SampleHome) -> Path:
    return sample.path / "sam/assets/core_models"


def _catalog(sample: SampleHome, **changes: object) -> dict[str, Any]:
    """Change one entry of the catalog; None of Ellipsis takes the key away."""
    path = _models(sample) / "model_catalog.json"
    document = json.loads(path.read_bytes())
    entry = document["models"]["old-1b"] | changes
    document["models"]["old-1b"] = {key: value for key, value in entry.items() if value is not ...}
    path.write_text(json.dumps(document))
    return dict(document)


def _add(home: SamHome, sample: SampleHome) -> None:
    entry = sample.engines[0]
    home.add_downloaded(entry, _models(sample) / "old-1b/old-1b.gguf", at=AT, size_bytes=1201, sha256="a" * 64)


def test_catalog_is_read(home: SamHome, sample: SampleHome) -> None:
    """Entries come back as written, one without a file among them."""
    catalog = home.catalog()
    assert catalog["old-1b"] == sample.engines[0]
    assert catalog["hybrid-sample"].filename is None


def test_missing_catalog_has_defaults(home: SamHome, sample: SampleHome) -> None:
    """Without a file there are the three entries SAM knows, and no file is made."""
    (_models(sample) / "model_catalog.json").unlink()
    assert sorted(home.catalog()) == ["deepseek-r1-8b-q4", "deepseek-r1-8b-q8", "llama-3.1-8b-q4"]
    assert not (_models(sample) / "model_catalog.json").exists()


def test_extra_key_is_ignored(home: SamHome, sample: SampleHome) -> None:
    """A key of somebody else's is no fault, and recommended and tags may be missing."""
    _catalog(sample, checksum="x", recommended=..., tags=...)
    assert home.catalog()["old-1b"] == sample.engines[0]


@pytest.mark.parametrize(
    "changes",
    [
        {"model_id": "other"},
        {"display_name": ""},
        {"model_family": None},
        {"huggingface_repo": 1},
        {"filename": ...},
        {"filename": ""},
        {"file_size": "1"},
        {"file_size": -1},
        {"context_length": True},
        {"context_length": 0},
        {"quantization": ...},
        {"recommended": "yes"},
        {"tags": "a"},
        {"tags": [1]},
    ],
    ids=lambda changes: "-".join(f"{key}={value}" for key, value in changes.items()),
)
def test_wrong_field_is_named(home: SamHome, sample: SampleHome, changes: dict[str, object]) -> None:
    """A missing or wrongly typed field is refused by the model's and the field's name, the file untouched."""
    document = _catalog(sample, **changes)
    with pytest.raises(BadFileError, match=next(iter(changes))) as caught:
        home.catalog()
    assert "old-1b" in caught.value.reason
    assert json.loads((_models(sample) / "model_catalog.json").read_bytes()) == document


@pytest.mark.parametrize("content", [b"", b"[]", b'{"models": []}', b'{"models": {"a": 1}}'])
def test_unreadable_catalog_is_refused(home: SamHome, sample: SampleHome, content: bytes) -> None:
    """A catalog that is none is refused, never replaced."""
    path = _models(sample) / "model_catalog.json"
    path.write_bytes(content)
    with pytest.raises(BadFileError, match="model_catalog"):
        home.catalog()
    assert path.read_bytes() == content


def test_download_is_entered(home: SamHome, sample: SampleHome) -> None:
    """A model is entered with just the keys SAM's reader takes, its path relative to home."""
    _add(home, sample)
    document = json.loads((_models(sample) / "downloaded_models.json").read_bytes())
    record = document["models"]["old-1b"]
    assert list(document) == ["version", "updated_at", "models"]
    assert list(record) == [
        "model_id",
        "local_path",
        "downloaded_at",
        "file_size",
        "checksum",
        "model_info",
        "status",
    ]
    assert record["local_path"] == "sam/assets/core_models/old-1b/old-1b.gguf"
    assert datetime.fromisoformat(record["downloaded_at"]).tzinfo is None
    assert len(record["model_info"]) == 11


def test_other_downloads_are_kept(home: SamHome, sample: SampleHome) -> None:
    """Entries of other models stay as they are when one comes and goes."""
    path = _models(sample) / "downloaded_models.json"
    other = {"version": "1.0.0", "updated_at": "x", "models": {"other": {"local_path": "é"}}}
    path.write_text(json.dumps(other, indent=2))
    _add(home, sample)
    assert list(json.loads(path.read_bytes())["models"]) == ["other", "old-1b"]
    home.remove_downloaded("old-1b")
    home.remove_downloaded("old-1b")
    assert json.loads(path.read_bytes())["models"] == other["models"]


def test_entering_twice_is_once(home: SamHome, sample: SampleHome) -> None:
    """The second time nothing is written."""
    _add(home, sample)
    path = _models(sample) / "downloaded_models.json"
    before = path.stat().st_ino
    _add(home, sample)
    assert path.stat().st_ino == before


def test_removing_makes_no_list(home: SamHome, sample: SampleHome) -> None:
    """Taking a model out of a list that is not there makes none."""
    home.remove_downloaded("old-1b")
    assert not (_models(sample) / "downloaded_models.json").exists()


def test_broken_downloads_are_kept(home: SamHome, sample: SampleHome) -> None:
    """A list that does not parse is refused and left alone."""
    path = _models(sample) / "downloaded_models.json"
    path.write_bytes(b"{")
    with pytest.raises(BadFileError, match="downloaded_models"):
        _add(home, sample)
    assert path.read_bytes() == b"{"
