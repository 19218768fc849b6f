"""Step `rehearse`: the gate before the switch; everything staged is complete and search finds what it should."""

from __future__ import annotations

from contextlib import closing
from typing import TYPE_CHECKING, Final

from sam_migrate.domain.events import RehearsalPassed
from sam_migrate.errors import FailedError
from sam_migrate.steps import staging

if TYPE_CHECKING:
    from sam_migrate.domain.engine import Embedder
    from sam_migrate.steps.world import Work

QUERIES_MAX: Final = 50
NEAREST: Final = 10


def run(work: Work) -> RehearsalPassed:
    """Check the backup and the staged index, then ask for chunks with half of their own words."""
    backup = work.state.backup
    if backup is not None:
        problems = work.world.backups.problems(work.state.migration_id, manifest_sha256=backup.manifest_sha256)
        if problems:
            raise FailedError(f"the backup is not what it was: {'; '.join(problems)}")
    embedder = staging.new_embedder(work)
    left = staging.complete(work, work.state.begun.generation_id, embedder)
    if left and work.state.required.re_embed_knowledge and embedder.provider == "engine":
        raise FailedError(f"{left} chunks have no vector in the staged index")
    if embedder.identity == staging.serving_embedder(work).identity:
        return RehearsalPassed(queries=0, found=0)
    return _retrieve(work, embedder)


def _retrieve(work: Work, embedder: Embedder) -> RehearsalPassed:
    ordered = staging.texts(work.world.host.chunks())
    sample = ordered[:: max(1, len(ordered) // QUERIES_MAX)][:QUERIES_MAX]
    if not sample:
        return RehearsalPassed(queries=0, found=0)
    generation_id = work.state.begun.generation_id
    with (
        staging.opened(work, generation_id, embedder) as engine,
        closing(work.world.generations.index(generation_id, dimension=embedder.dimension)) as index,
    ):
        vectors = engine.embed_batch([half(text) for _, text in sample])
        found = sum(
            any(content_hash == near for near, _ in index.search(vector.tolist(), limit=NEAREST))
            for (content_hash, _), vector in zip(sample, vectors, strict=True)
        )
    return RehearsalPassed(queries=len(sample), found=found)


def half(text: str) -> str:
    """Return every second word of the text, or all of it where it is one word."""
    return " ".join(text.split()[::2]) or text
