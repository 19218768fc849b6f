"""The sample home is one SAM could have written, the same every time."""

from __future__ import annotations

import json
import math
import struct
from operator import mul
from typing import TYPE_CHECKING

from sam_migrate.demo.home import (
    SampleHome,
    add_chunk,
    chunk_path,
    delete_chunk,
    edit_chunk,
    make_home,
    sample_texts,
    vector,
)
from sam_migrate.domain.engine import CatalogEntry

if TYPE_CHECKING:
    from pathlib import Path


def _entry(model_id: str) -> CatalogEntry:
    return CatalogEntry(
        model_id=model_id,
        display_name=model_id,
        description="",
        model_family="llama",
        huggingface_repo=f"example/{model_id}-GGUF",
        filename="m.gguf",
        file_size=1,
        quantization="F32",
        context_length=512,
    )


def _make(path: Path, chunks: int = 5) -> SampleHome:
    return make_home(path, engines=(_entry("one"), _entry("two")), chunks=chunks)


def _content(home: Path) -> dict[str, bytes]:
    return {str(path.relative_to(home)): path.read_bytes() for path in home.rglob("*") if path.is_file()}


def test_home_is_the_same_every_time(tmp_path: Path) -> None:
    """Two homes of one seed have the same files, byte for byte."""
    _make(tmp_path / "a")
    _make(tmp_path / "b")
    assert _content(tmp_path / "a") == _content(tmp_path / "b")


def test_texts_are_different_sentences() -> None:
    """As many different texts as asked for, beyond all combinations too."""
    texts = sample_texts(25_000)
    assert len(set(texts)) == 25_000
    assert all(text[0].isupper() and text[-1] in ".)" for text in texts)


def test_chunk_has_sams_form(tmp_path: Path) -> None:
    """A chunk has the keys SAM reads, under the name of its id, its vector normalised float32."""
    home = _make(tmp_path)
    chunk_id, text = next(iter(home.texts.items()))
    chunk = json.loads(chunk_path(tmp_path, chunk_id).read_bytes())
    assert (chunk["chunk_id"], chunk["content"], len(chunk), len(chunk_id)) == (chunk_id, text, 12, 16)
    assert len(chunk["embedding"]) == 384
    assert math.isclose(math.hypot(*chunk["embedding"]), 1, abs_tol=1e-6)
    assert struct.unpack("<f", struct.pack("<f", chunk["embedding"][0]))[0] == chunk["embedding"][0]


def test_like_texts_have_like_vectors() -> None:
    """Texts that share words lie nearer than texts that share none."""
    one = vector("the ferry to the island")
    like, other = vector("the ferry to the coast"), vector("sourdough needs patience")
    assert sum(map(mul, one, like)) > 0.5 > sum(map(mul, one, other))


def test_configuration_serves_the_first_engine(tmp_path: Path) -> None:
    """The configuration names the first engine and has the two keys stock SAM does not declare."""
    _make(tmp_path)
    configuration = json.loads((tmp_path / "sam_config.json").read_bytes())
    assert configuration["engine_upgrade"]["active_engine_id"] == "one"
    assert "retrieval_pipeline" in configuration


def test_adapter_weights_are_safetensors(tmp_path: Path) -> None:
    """The weights' header says where the bytes are, and they are there."""
    _make(tmp_path)
    content = (tmp_path / "models/personalized/ana/job1/adapter_model.safetensors").read_bytes()
    (length,) = struct.unpack_from("<Q", content)
    (tensor,) = json.loads(content[8 : 8 + length]).values()
    assert len(content) == 8 + length + tensor["data_offsets"][1]


def test_user_can_add_edit_and_delete(tmp_path: Path) -> None:
    """The user's own doings leave files as SAM would."""
    home = _make(tmp_path, chunks=1)
    chunk_id = add_chunk(tmp_path, "A new thought.")
    edit_chunk(tmp_path, chunk_id, "A better thought.")
    delete_chunk(tmp_path, next(iter(home.texts)))
    (path,) = (tmp_path / "memory_store").iterdir()
    assert json.loads(path.read_bytes())["content"] == "A better thought."
