"""The tiny engines: real files, the same every time, near where words are shared."""

from __future__ import annotations

import random
from typing import TYPE_CHECKING

import pytest

from sam_migrate.adapters.gguf import read_header
from sam_migrate.adapters.llama import LlamaEngine
from sam_migrate.demo.engines import write_bert, write_llama, write_lora

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path

TALE = """
The harbour master wrote a letter about the missing ferry and its cargo of bread, sugar and oxygen bottles. Nobody in
the kitchen believed him. An auditor from the city counted every invoice twice, found a router under the snow, and
asked for a lamp. Winter travel is slow: seven trains stopped at the stone bridge while a painter looked for colours.
Her garden had a museum of old engines, batteries, buttons and tickets; even the river kept a copy of its memory.
"""
WORDS = TALE.split()


def chunks(count: int) -> list[str]:
    """Make texts of 12 to 30 words, the same every time."""
    chance = random.Random(7)  # noqa: S311 - examples, not secrets
    return [" ".join(chance.choices(WORDS, k=chance.randint(12, 30))) for _ in range(count)]


@pytest.mark.parametrize("write", [write_llama, write_bert, write_lora])
def test_same_seed_gives_same_bytes(tmp_path: Path, write: Callable[..., Path]) -> None:
    """An engine is reproducible, and another seed is another engine."""
    first, again = (write(tmp_path / name, seed=1, dimension=32).read_bytes() for name in ("a", "b"))
    other = write(tmp_path / "c", seed=2, dimension=32).read_bytes()
    assert first == again != other


def test_engines_are_tiny(tmp_path: Path) -> None:
    """A test may write as many as it likes."""
    for write in (write_llama, write_bert):
        assert write(tmp_path / "a.gguf", seed=1, dimension=64).stat().st_size < 1 << 20


@pytest.mark.parametrize("write", [write_llama, write_bert])
def test_dimension_is_as_asked(tmp_path: Path, write: Callable[..., Path]) -> None:
    """Engines of different dimension can be told apart by their header."""
    assert read_header(write(tmp_path / "a.gguf", seed=1, dimension=48)).embedding_length == 48


@pytest.mark.real_model
@pytest.mark.parametrize("write", [write_llama, write_bert])
def test_texts_are_found_by_half_their_words(tmp_path: Path, write: Callable[..., Path]) -> None:
    """Among 200 texts each one finds itself, by all of its words and by every second one."""
    path = write(tmp_path / "a.gguf", seed=1, dimension=96)
    engine = LlamaEngine("tiny", "Tiny", str(path), threads=1)
    engine.load()
    try:
        texts = chunks(200)
        vectors, halves = engine.embed_windows([texts, [" ".join(text.split()[::2]) for text in texts]])
    finally:
        engine.unload_model()
    itself = list(range(200))
    assert (vectors @ vectors.T).argmax(axis=1).tolist() == itself
    assert ((halves @ vectors.T).argmax(axis=1) == itself).mean() >= 0.9
