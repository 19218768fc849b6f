"""What an engine is: its catalog entry, what its file says, what a probe measured, who embeds with it."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True, slots=True, kw_only=True)
class CatalogEntry:
    """One entry of SAM's model catalog; `filename` is None where a whole repository is meant."""

    model_id: str
    display_name: str
    description: str
    model_family: str
    huggingface_repo: str
    filename: str | None
    file_size: int
    quantization: str
    context_length: int
    recommended: bool = False
    tags: tuple[str, ...] = ()


@dataclass(frozen=True, slots=True, kw_only=True)
class GgufFacts:
    """What the header of a GGUF file says of the model; lengths in tokens, widths in floats."""

    architecture: str
    name: str
    size_bytes: int
    context_length: int
    embedding_length: int
    block_count: int
    tensor_count: int
    chat_template: str | None
    base_repositories: tuple[str, ...] = ()
    kind: str = "model"


@dataclass(frozen=True, slots=True, kw_only=True)
class ProbeFacts:
    """What a child process measured of a loaded engine; rates per second, memory in bytes at its peak."""

    dimension: int
    context_length: int
    generates: bool
    sample: str
    rendered_prompt: str | None
    embeds_per_second: float
    tokens_per_second: float
    peak_memory_bytes: int
    safe_mode: bool


@dataclass(frozen=True, slots=True, kw_only=True)
class ServedEngine:
    """The engine a generation serves; `sha256` is None only for what SAM served before us."""

    engine_id: str
    model_name: str
    family: str
    repository: str
    filename: str
    quantization: str
    sha256: str | None
    size_bytes: int
    context_length: int
    base_repositories: tuple[str, ...] = ()


@dataclass(frozen=True, slots=True, kw_only=True)
class Embedder:
    """Who makes the vectors: `provider` is `host` (SAM's own MiniLM) or `engine`; vectors of one identity compare."""

    provider: str
    identity: str
    dimension: int
    engine: ServedEngine | None = None
