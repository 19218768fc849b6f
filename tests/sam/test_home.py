"""The home as the steps see it."""

from __future__ import annotations

import os
from typing import TYPE_CHECKING

import pytest

from sam_migrate.adapters.disk import LocalDisk
from sam_migrate.domain.generation import FieldChange, FieldValue
from sam_migrate.errors import BadFileError
from sam_migrate.sam.home import SamHome

if TYPE_CHECKING:
    from pathlib import Path

    from sam_migrate.demo.home import SampleHome
    from sam_migrate.ports import Host


def test_home_is_a_host(home: SamHome) -> None:
    """The class fulfils the port; mypy checks what this line claims."""
    host: Host = home
    assert host.query_side() == "absent"


def test_empty_home_has_nothing(tmp_path: Path) -> None:
    """A directory without any of SAM's files is read as empty, and nothing is made in it."""
    home = SamHome(tmp_path, LocalDisk())
    assert (home.document("configuration"), home.adapters(), home.holders()) == ({}, (), ())
    assert (list(home.adapter_files()), list(home.document_files()), home.unwritable()) == ([], [], [])
    assert list(tmp_path.iterdir()) == []


def test_edit_reaches_both_documents(home: SamHome) -> None:
    """One call changes fields of both documents."""
    value = FieldValue(present=True, content="x")
    names = ("configuration", "registry")
    home.edit([FieldChange(document=name, path=("new",), before=FieldValue(), after=value) for name in names])
    assert [home.document(name)["new"] for name in names] == ["x", "x"]


def test_leftover_of_a_kill_is_tidied(home: SamHome, sample: SampleHome) -> None:
    """What a killed edit left beside a document is gone after the next one."""
    leftover = sample.path / f".sam_migrate-sam_config.json.{'0' * 16}.{'1' * 16}.tmp"
    leftover.write_bytes(b'{"half"')
    home.edit([FieldChange(document="configuration", path=("a",), before=FieldValue(), after=FieldValue())])
    assert not leftover.exists()


def test_documents_are_listed(home: SamHome) -> None:
    """The documents that exist are named by their place."""
    names = [name for name, _ in home.document_files()]
    assert names == ["sam_config.json", "models/personalized/model_registry.json"]


def test_broken_document_is_named(home: SamHome, sample: SampleHome) -> None:
    """A configuration that does not parse is refused by its place in the home."""
    (sample.path / "sam_config.json").write_bytes(b"{")
    with pytest.raises(BadFileError, match=r"^sam_config\.json: "):
        home.document("configuration")


def test_models_may_lie_elsewhere(sample: SampleHome, tmp_path: Path) -> None:
    """`models_dir` moves the catalog, and paths outside home are recorded as they are."""
    elsewhere = SamHome(sample.path, LocalDisk(), models_dir=tmp_path / "models")
    assert "llama-3.1-8b-q4" in elsewhere.catalog()


@pytest.mark.skipif(os.geteuid() == 0, reason="root may write everywhere")
def test_unwritable_is_named(home: SamHome, sample: SampleHome) -> None:
    """A directory we must write and cannot is named."""
    (sample.path / "memory_store").chmod(0o500)
    assert [reason.partition(":")[0] for reason in home.unwritable()] == ["memory_store"]
    (sample.path / "memory_store").chmod(0o700)


def test_writable_home_has_no_complaint(home: SamHome) -> None:
    """A sample home can be written."""
    assert home.unwritable() == []
