"""A generation: everything around one engine that must agree, and the fields of SAM's files it owns."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from sam_migrate.domain.engine import Embedder, ServedEngine  # noqa: TC001 - decoded at run time
from sam_migrate.errors import IntegrityError


@dataclass(frozen=True, slots=True, kw_only=True)
class Chunk:
    """One text of SAM's memory; `content_hash` is the SHA-256 of the text as it is now, computed by us.

    `embedding` is the JSON value found in the file: a list of floats, None, or whatever somebody wrote.
    """

    chunk_id: str
    content: str
    content_hash: str
    embedding: Any


@dataclass(frozen=True, slots=True, kw_only=True)
class FieldValue:
    """A JSON value in one of SAM's documents, or its absence."""

    present: bool = False
    content: Any = None


@dataclass(frozen=True, slots=True, kw_only=True)
class Field:
    """One field of ours: `document` is `configuration` or `registry`, `path` the keys that lead to it.

    Where the path crosses a list, the key names the element whose `migration_id` it is.
    """

    document: str
    path: tuple[str, ...]
    value: FieldValue


@dataclass(frozen=True, slots=True, kw_only=True)
class FieldChange:
    """A change of one field: applied only where the live value still is `before`."""

    document: str
    path: tuple[str, ...]
    before: FieldValue
    after: FieldValue


@dataclass(frozen=True, slots=True, kw_only=True)
class Adapter:
    """A LoRA adapter as SAM's registry knows it; `directory` is relative to home or absolute, as recorded."""

    model_id: str
    user_id: str
    base_model: str
    directory: str
    is_active: bool


@dataclass(frozen=True, slots=True, kw_only=True)
class AdapterVerdict:
    """Whether an adapter fits the engine (`compatible`, `incompatible`, `unknown`), why, and whether it is on."""

    model_id: str
    user_id: str
    verdict: str
    reason: str
    active: bool


@dataclass(frozen=True, slots=True, kw_only=True)
class VectorSet:
    """The sealed vectors of a generation: how many, and the SHA-256 over their sorted keys and bytes."""

    count: int
    sha256: str


@dataclass(frozen=True, slots=True, kw_only=True)
class Generation:
    """What one commit made serve; `fields` are the values this generation gives SAM's documents.

    `base` is the generation it replaced, `derived_from` the kept one it goes back to, if any.
    `position` and `head` are the log's when the generation was sealed.
    """

    generation_id: str
    run_id: str
    base: str | None
    derived_from: str | None
    engine: ServedEngine
    embedder: Embedder
    vectors: VectorSet
    prompts_sha256: str
    adapters: tuple[AdapterVerdict, ...]
    fields: tuple[Field, ...]
    safe_mode: bool
    position: int
    head: str


@dataclass(frozen=True, slots=True, kw_only=True)
class Home:
    """The fold of the stream `home`: every generation that ever served, oldest first."""

    generations: tuple[Generation, ...] = ()
    version: int = 0

    @property
    def active(self) -> Generation | None:
        """Return the generation that serves, or None where SAM has never been migrated."""
        return self.generations[-1] if self.generations else None

    def find(self, generation_id: str) -> Generation | None:
        """Return the generation with this id, or None."""
        return next((known for known in reversed(self.generations) if known.generation_id == generation_id), None)

    def kept(self, previous: int) -> tuple[Generation, ...]:
        """Return the serving generation and so many before it: what `rollback` can reach."""
        return self.generations[-(previous + 1) :]


def commit(home: Home, generation: Generation) -> Home:
    """Move the pointer; raise IntegrityError where the generation was built on another base."""
    base = home.active.generation_id if home.active else None
    if generation.base != base:
        raise IntegrityError(f"generation {generation.generation_id} replaces {generation.base}, but {base} served")
    return Home(generations=(*home.generations, generation), version=home.version + 1)
