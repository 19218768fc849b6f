"""Model files on disk: hostile names, publishing that survives a crash anywhere, digests."""

from __future__ import annotations

import hashlib
from typing import TYPE_CHECKING

import pytest
from hypothesis import given
from hypothesis import strategies as st

from sam_migrate.adapters.library import ModelLibrary
from sam_migrate.domain.engine import GgufFacts
from sam_migrate.errors import RefusedError, StopRequested, WaitingError
from tests.adapters.conftest import stop_when

if TYPE_CHECKING:
    from pathlib import Path

DIGEST = hashlib.sha256(b"new").hexdigest()
FACTS = GgufFacts(
    architecture="llama",
    name="tiny",
    size_bytes=3,
    context_length=1,
    embedding_length=1,
    block_count=1,
    tensor_count=1,
    chat_template=None,
)


@pytest.fixture
def library(tmp_path: Path) -> ModelLibrary:
    """Make a library whose directory is not there yet."""
    return ModelLibrary(tmp_path / "models", read_header=lambda _path: FACTS)


def downloaded(library: ModelLibrary) -> Path:
    """Make a verified partial."""
    partial = library.partial(DIGEST)
    partial.write_bytes(b"new")
    return partial


HOSTILE = [
    "", ".", "..", "/etc/passwd", "a/../../b", "a//b", "a/", "C:evil", "C:\\evil", "a\\b", "a\0b", "a\nb", "NUL", "con",
    "COM1.gguf", "lpt9 .x", "aux/a.gguf", "CONIN$", "trailing.", "trailing ", " leading", "x" * 256, "\udcff", "a?b",
    "/".join("a" * 17),
]  # fmt: skip


@pytest.mark.parametrize("name", HOSTILE)
def test_path_refuses_hostile_names(library: ModelLibrary, tmp_path: Path, name: str) -> None:
    """A name that could mean anything but a file in the library is refused, and nothing is made."""
    with pytest.raises(RefusedError):
        library.path("model", name)
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize("model_id", ["a/b", "..", ".sam_migrate", ".SAM_Migrate", "", "nul"])
def test_path_refuses_hostile_ids(library: ModelLibrary, model_id: str) -> None:
    """An id is one plain name, and not the directory of the partials."""
    with pytest.raises(RefusedError):
        library.path(model_id, "a.gguf")


@given(model_id=st.text(max_size=20), filename=st.text(alphabet="ab./\\ :C\0é", max_size=20))
def test_path_stays_inside(model_id: str, filename: str, tmp_path_factory: pytest.TempPathFactory) -> None:
    """Whatever the names are, the path lies below the model's directory, or there is none."""
    root = tmp_path_factory.getbasetemp() / "never-made"
    try:
        path = ModelLibrary(root, read_header=lambda _path: FACTS).path(model_id, filename)
    except RefusedError:
        return
    assert path.resolve().is_relative_to(root.resolve() / model_id)
    assert path.resolve() != root.resolve() / model_id


def test_path_keeps_folders(library: ModelLibrary, tmp_path: Path) -> None:
    """Folders of a repository are kept, and names of other alphabets are names."""
    assert library.path("modèle", "Q4/x.gguf") == tmp_path / "models/modèle/Q4/x.gguf"


@pytest.mark.parametrize("link", ["models/m", "models/m/Q4", "models/m/Q4/x.gguf"])
def test_path_refuses_links(library: ModelLibrary, tmp_path: Path, link: str) -> None:
    """A link anywhere between the library and the file is refused."""
    outside = tmp_path / "outside"
    outside.mkdir()
    (tmp_path / link).parent.mkdir(parents=True)
    (tmp_path / link).symlink_to(outside)
    with pytest.raises(RefusedError, match="in the way"):
        library.path("m", "Q4/x.gguf")


def test_partial_refuses_other_names(library: ModelLibrary) -> None:
    """Only a SHA-256 names a partial."""
    for name in ("../x", DIGEST.upper(), DIGEST[:-1], f"{DIGEST}\n"):
        with pytest.raises(RefusedError):
            library.partial(name)


def test_publish_replaces_the_old_file(library: ModelLibrary) -> None:
    """The verified partial takes the name, an older file under it goes in the same step."""
    old = library.path("m", "Q4/x.gguf")
    old.parent.mkdir(parents=True)
    old.write_bytes(b"old")
    partial = downloaded(library)
    assert library.publish(partial, "m", "Q4/x.gguf").read_bytes() == b"new"
    assert not partial.exists()


def test_publish_twice_is_once(library: ModelLibrary) -> None:
    """After a crash behind the rename, publishing again finds it done."""
    partial = downloaded(library)
    final = library.publish(partial, "m", "x.gguf")
    assert library.publish(partial, "m", "x.gguf") == final
    assert final.read_bytes() == b"new"


def test_publish_parts_hard_links(library: ModelLibrary) -> None:
    """When both names are the same file already, the partial's goes."""
    partial = downloaded(library)
    final = library.path("m", "x.gguf")
    final.parent.mkdir()
    final.hardlink_to(partial)
    library.publish(partial, "m", "x.gguf")
    assert not partial.exists()
    assert final.read_bytes() == b"new"


def test_publish_nothing_waits(library: ModelLibrary) -> None:
    """With neither partial nor file there is nothing to publish, and somebody must mend that."""
    with pytest.raises(WaitingError) as caught:
        library.publish(library.partial(DIGEST), "m", "x.gguf")
    assert caught.value.waiting_for == "file"


def test_publish_file_in_the_way(library: ModelLibrary, tmp_path: Path) -> None:
    """A file where the model's directory belongs is refused and stays."""
    partial = downloaded(library)
    (tmp_path / "models/m").write_bytes(b"mine")
    with pytest.raises(RefusedError, match="in the way"):
        library.publish(partial, "m", "x.gguf")
    assert (tmp_path / "models/m").read_bytes() == b"mine"
    assert partial.exists()


def test_digest_counts_every_byte(library: ModelLibrary, hub_file: Path) -> None:
    """The digest is the file's, and all its bytes are told."""
    told: list[int] = []
    digest = library.digest(hub_file, heed=lambda: None, advance=told.append)
    assert digest == hashlib.sha256(hub_file.read_bytes()).hexdigest()
    assert sum(told) == hub_file.stat().st_size


def test_digest_heeds_a_request(library: ModelLibrary, hub_file: Path) -> None:
    """A request to stop ends the hashing, unchanged."""
    with pytest.raises(StopRequested):
        library.digest(hub_file, heed=stop_when(lambda: True), advance=lambda _count: None)


def test_digest_missing_file_waits(library: ModelLibrary, tmp_path: Path) -> None:
    """A file that is gone is a matter of the world."""
    with pytest.raises(WaitingError, match="not there"):
        library.digest(tmp_path / "gone", heed=lambda: None, advance=lambda _count: None)


def test_header_asks_the_reader(library: ModelLibrary, hub_file: Path) -> None:
    """The header is read by whoever was given."""
    assert library.header(hub_file) is FACTS
