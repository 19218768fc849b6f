"""A sample home on the real disk, and SAM's room over it."""

from __future__ import annotations

from typing import TYPE_CHECKING

import pytest

from sam_migrate.adapters.disk import LocalDisk
from sam_migrate.demo.home import SampleHome, make_home
from sam_migrate.domain.engine import CatalogEntry, ServedEngine
from sam_migrate.sam.home import SamHome

if TYPE_CHECKING:
    from pathlib import Path


def _entry(model_id: str, family: str) -> CatalogEntry:
    return CatalogEntry(
        model_id=model_id,
        display_name=f"Sample {model_id}",
        description="An example",
        model_family=family,
        huggingface_repo=f"example/{model_id}-GGUF",
        filename=f"{model_id}.gguf",
        file_size=1200,
        quantization="Q4_K_M",
        context_length=8192,
    )


@pytest.fixture
def sample(tmp_path: Path) -> SampleHome:
    """Return a home of two engines, two adapters and twelve chunks."""
    return make_home(tmp_path / "home", engines=(_entry("old-1b", "llama"), _entry("new-1b", "qwen")), chunks=12)


@pytest.fixture
def home(sample: SampleHome) -> SamHome:
    """Return SAM's room over the sample; nobody writes there, so a pause is none."""
    return SamHome(sample.path, LocalDisk(), pause=lambda _: None)


@pytest.fixture
def old_engine() -> ServedEngine:
    """Return the engine the sample serves."""
    return _served("old-1b")


@pytest.fixture
def new_engine() -> ServedEngine:
    """Return the engine of an upgrade."""
    return _served("new-1b")


def _served(engine_id: str) -> ServedEngine:
    return ServedEngine(
        engine_id=engine_id,
        model_name=f"Sample {engine_id}",
        family="qwen",
        repository=f"example/{engine_id}-GGUF",
        filename=f"{engine_id}.gguf",
        quantization="Q4_K_M",
        sha256="0" * 64,
        size_bytes=1200,
        context_length=4096,
        base_repositories=(f"makers/{engine_id}",),
    )
