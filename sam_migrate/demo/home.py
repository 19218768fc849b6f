"""A sample home of SAM: configuration, catalog, two users' adapters and a memory of readable texts.

Its vectors are made up: alike for texts that share words, 384 wide and normalised like MiniLM's, the same every time.
"""

from __future__ import annotations

import json
import struct
from dataclasses import asdict, dataclass
from functools import lru_cache
from hashlib import sha256
from itertools import permutations
from math import prod
from random import Random
from typing import TYPE_CHECKING, Any, Final

import numpy as np

if TYPE_CHECKING:
    from collections.abc import Sequence
    from pathlib import Path

    from numpy.typing import NDArray

    from sam_migrate.domain.engine import CatalogEntry

DIMENSION: Final = 384
WRITTEN_AT: Final = "2025-03-01T09:00:00.000001"

_TOPICS: Final = {
    "gardening": ("tomatoes", "compost", "a raised bed", "the greenhouse", "early frost", "bean seedlings"),
    "sailing": ("the mainsail", "a reef knot", "the harbour", "falling pressure", "the tide table", "an anchor"),
    "baking": ("sourdough", "rye flour", "a proving basket", "the oven stone", "cold fermentation", "cinnamon"),
    "astronomy": ("Saturn", "a refractor", "the Pleiades", "dark skies", "a meteor shower", "the ecliptic"),
    "music": ("the cello", "a minor third", "the metronome", "a string quartet", "sight reading", "rosin"),
    "medicine": ("blood pressure", "a vaccination", "the pharmacy", "sleep", "an allergy test", "iron tablets"),
    "travel": ("the night train", "a mountain hut", "the border", "a window seat", "the ferry", "a paper map"),
    "finance": ("the rent", "an index fund", "a tax return", "the budget", "an invoice", "interest rates"),
    "programming": ("the test suite", "a race condition", "the compiler", "an event log", "a hash table", "recursion"),
    "history": ("the printing press", "a Roman road", "the spice trade", "an old archive", "the treaty", "a siege"),
}
_FORMS: Final = (
    "When it comes to {topic}, {one} matters more than {two} {when}.",
    "A note on {topic}: {when}, keep {one} apart from {two}.",
    "{when}, we talked about {topic} and agreed that {one} depends on {two}.",
    "My teacher of {topic} said {when} that {one} explains {two}.",
    "Remember for {topic}: {one} first, {two} {when}.",
    "The book about {topic} compares {one} with {two} and prefers the former {when}.",
)
_TIMES: Final = (
    "in spring", "on Monday", "after the holidays", "at the end of the month", "before sunrise", "next year",
    "last winter", "in the evening", "on rainy days", "by the weekend", "at noon", "every second week",
)  # fmt: skip
_PAIRS: Final = 30  # ordered pairs of a topic's six things
_TYPES: Final = ("document", "conversation", "fact", "insight", "procedure")


@dataclass(frozen=True, slots=True, kw_only=True)
class SampleHome:
    """What was written: the home, its engines, the texts by chunk id, the adapters by user."""

    path: Path
    engines: tuple[CatalogEntry, CatalogEntry]
    texts: dict[str, str]
    adapters: dict[str, str]


def make_home(
    path: Path, *, engines: tuple[CatalogEntry, CatalogEntry], chunks: int = 300, seed: int = 7
) -> SampleHome:
    """Write a home that serves the first engine; the model files are the caller's to put there.

    Of the two adapters the one of `ana` was trained on the first engine and is on, the one of `ben` on something else.
    """
    path.mkdir(parents=True, exist_ok=True)
    _write_json(path / "sam_config.json", _configuration(engines[0]))
    _write_json(path / "sam/assets/core_models/model_catalog.json", _catalog(engines))
    adapters = {"ana": "ana_20250101_000000", "ben": "ben_20250102_000000"}
    bases = {"ana": engines[0].huggingface_repo.removesuffix("-GGUF"), "ben": "example-lab/unrelated-base"}
    _write_json(path / "models/personalized/model_registry.json", _registry(adapters, bases))
    for user, base in bases.items():
        _write_adapter(path / "models/personalized" / user / "job1", base)
    (path / "memory_store").mkdir(exist_ok=True)
    texts = {}
    for number, text in enumerate(sample_texts(chunks, seed=seed)):
        texts[add_chunk(path, text, number=number)] = text
    return SampleHome(path=path, engines=engines, texts=texts, adapters=adapters)


def sample_texts(count: int, *, seed: int = 7) -> list[str]:
    """Return so many different English sentences, the same ones for the same seed."""
    topics = list(_TOPICS.items())
    sizes = (len(topics), len(_FORMS), _PAIRS, len(_TIMES))
    every = prod(sizes)
    chosen = Random(seed).sample(range(every), min(count, every))  # noqa: S311 - a sample, not a secret
    texts = []
    for number in range(count):
        index = chosen[number % every]
        picks = []
        for size in sizes:
            index, pick = divmod(index, size)
            picks.append(pick)
        topic, things = topics[picks[0]]
        one, two = list(permutations(things, 2))[picks[2]]
        text = _FORMS[picks[1]].format(topic=topic, one=one, two=two, when=_TIMES[picks[3]])
        # Beyond all combinations a number tells them apart.
        texts.append(f"{text[0].upper()}{text[1:]}" + (f" (Note {number}.)" if number >= every else ""))
    return texts


def add_chunk(home: Path, text: str, *, number: int = 0) -> str:
    """Add a text as SAM does and return its chunk's id; the same text has the same id."""
    chunk_id = f"mem_{sha256(text.encode()).hexdigest()[:12]}"
    _write_json(
        chunk_path(home, chunk_id),
        {
            "chunk_id": chunk_id,
            "content": text,
            "content_hash": sha256(text.encode()).hexdigest(),
            "embedding": vector(text),
            "memory_type": _TYPES[number % len(_TYPES)],
            "source": f"document:uploads/notes.txt:block_{number}",
            "timestamp": WRITTEN_AT,
            "tags": ["sample"],
            "importance_score": 0.5,
            "access_count": 0,
            "last_accessed": WRITTEN_AT,
            "metadata": {},
        },
    )
    return chunk_id


def edit_chunk(home: Path, chunk_id: str, text: str) -> None:
    """Change a chunk's text as SAM does: hash and vector with it, the file written in place."""
    chunk = json.loads(chunk_path(home, chunk_id).read_bytes())
    chunk |= {"content": text, "content_hash": sha256(text.encode()).hexdigest(), "embedding": vector(text)}
    _write_json(chunk_path(home, chunk_id), chunk)


def delete_chunk(home: Path, chunk_id: str) -> None:
    """Delete a chunk as SAM does."""
    chunk_path(home, chunk_id).unlink(missing_ok=True)


def chunk_path(home: Path, chunk_id: str) -> Path:
    """Return where the chunk's file is."""
    return home / "memory_store" / f"{chunk_id}.json"


def vector(text: str) -> list[float]:
    """Return a made-up MiniLM vector: 384 float32 values, normalised, alike for texts that share words."""
    total = np.sum([_word(word) for word in text.lower().split()] or [_word("")], axis=0)
    values = (total / np.linalg.norm(total)).astype(np.float32)
    return [float(value) for value in values]


@lru_cache(maxsize=4096)
def _word(word: str) -> NDArray[np.float64]:
    seed = int.from_bytes(sha256(word.strip(".,:;").encode()).digest()[:8])
    return np.random.default_rng(seed).standard_normal(DIMENSION)


def _configuration(engine: CatalogEntry) -> dict[str, Any]:
    """Return a configuration with the two keys that stock SAM does not declare."""
    return {
        "model": {
            "backend": "auto",
            "size": "8b",
            "max_context_length": engine.context_length,
            "temperature": 0.6,
            "max_tokens": 800,
            "timeout_seconds": 90,
            "dynamic_backend": None,
            "transformer_model_name": f"hf.co/{engine.huggingface_repo}:{engine.quantization}",
            "transformer_api_url": "http://localhost:11434",
            "enable_thinking_tokens": True,
        },
        "engine_upgrade": {
            "active_engine_id": engine.model_id,
            "engine_model_name": engine.display_name,
            "engine_family": engine.model_family,
            "last_upgrade": "2025-03-01T09:00:00",
            "local_model_path": f"sam/assets/core_models/{engine.model_id}/{engine.filename}",
            "downloaded_engines": [engine.model_id],
            "migration_in_progress": False,
            "last_migration_timestamp": None,
            "backup_enabled": True,
            "auto_backup_before_migration": True,
            "rollback_enabled": True,
            "max_backup_retention_days": 30,
        },
        "retrieval_pipeline": {"version": "v2_muvera", "v1_settings": {}, "v2_settings": {}},
        "app_name": "SAM",
        "data_directory": "data",
    }


def _catalog(engines: Sequence[CatalogEntry]) -> dict[str, Any]:
    models = {engine.model_id: {**asdict(engine), "tags": list(engine.tags)} for engine in engines}
    models["hybrid-sample"] = {
        "model_id": "hybrid-sample",
        "display_name": "Hybrid sample",
        "description": "A whole repository rather than one file",
        "model_family": "Hybrid (state space and attention)",
        "huggingface_repo": "example-lab/hybrid-sample",
        "filename": None,
        "file_size": 100_000_000_000,
        "quantization": "fp16",
        "context_length": 256_000,
        "recommended": False,
        "tags": [],
    }
    return {"version": "1.0.0", "updated_at": "2025-03-01T09:00:00", "models": models}


def _registry(adapters: dict[str, str], bases: dict[str, str]) -> dict[str, Any]:
    models = {
        adapters[user]: {
            "model_id": adapters[user],
            "user_id": user,
            "base_model": base,
            "model_path": f"models/personalized/{user}/job1",
            "created_at": "2025-01-01T00:00:00",
            "training_job_id": "job1",
            "lora_config": {"r": 16, "alpha": 32},
            "training_stats": {"final_loss": 0.4},
            "performance_metrics": {},
            "is_active": user == "ana",
            "is_validated": True,
            "usage_count": 2,
            "last_used": None,
        }
        for user, base in bases.items()
    }
    return {"models": models, "active_models": {"ana": adapters["ana"]}, "last_updated": "2025-01-01T00:00:00"}


def _write_adapter(directory: Path, base: str) -> None:
    """Write a LoRA directory as PEFT leaves it, its weights a single small tensor."""
    _write_json(
        directory / "adapter_config.json",
        {"peft_type": "LORA", "base_model_name_or_path": base, "r": 16, "lora_alpha": 32, "target_modules": ["q_proj"]},
    )
    weights = np.random.default_rng(len(base)).standard_normal((16, 8)).astype("<f4").tobytes()
    name = "base_model.model.model.layers.0.self_attn.q_proj.lora_A.weight"
    header = json.dumps({name: {"dtype": "F32", "shape": [16, 8], "data_offsets": [0, len(weights)]}}).encode()
    (directory / "adapter_model.safetensors").write_bytes(struct.pack("<Q", len(header)) + header + weights)


def _write_json(path: Path, content: object) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    # In place and as it comes, the way SAM does it.
    with path.open("w", encoding="utf-8") as file:
        json.dump(content, file, indent=2, ensure_ascii=False)
