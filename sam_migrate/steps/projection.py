"""SAM's files as projections of a generation: make them follow, and say where they differ."""

from __future__ import annotations

from contextlib import closing
from typing import TYPE_CHECKING

from sam_migrate.domain.generation import FieldValue

if TYPE_CHECKING:
    from collections.abc import Sequence

    from sam_migrate import ports
    from sam_migrate.domain.engine import Embedder
    from sam_migrate.domain.generation import Chunk, FieldChange, Generation
    from sam_migrate.ports import EditReport, VectorReport
    from sam_migrate.steps.world import World


def follow(
    world: World,
    generation: Generation,
    changes: Sequence[FieldChange],
    *,
    before: Embedder | None,
    heed: ports.Heed,
) -> tuple[EditReport, VectorReport]:
    """Materialise the generation; idempotent. `before` made the vectors of the generation it replaced."""
    edited = world.host.edit(changes)
    done = 0
    total = world.host.chunk_count()

    def advance(count: int) -> None:
        nonlocal done
        done += count
        world.observer.progressed(done=done, total=total, unit="chunks")

    with closing(_index(world, generation)) as index:
        written = world.host.write_vectors(
            lambda chunk: _wanted(index, chunk, generation.embedder, before), heed=heed, advance=advance
        )
    return edited, written


def drift(world: World, generation: Generation) -> list[str]:
    """Name every field of ours in SAM's files that is not the generation's: the user's doing, or a live SAM's."""
    found = []
    for document in ("configuration", "registry"):
        owned = {field.path: field.value for field in generation.fields if field.document == document}
        live = world.host.values(document, list(owned))
        found += [f"{document} {'.'.join(path)}" for path, value in owned.items() if live[path] != value]
    with closing(_index(world, generation)) as index:
        for chunk in world.host.chunks():
            wanted = _wanted(index, chunk, generation.embedder, generation.embedder)
            if wanted.content != chunk.embedding:
                found.append(f"memory {chunk.chunk_id}" + ("" if wanted.present else " (no vector for its text yet)"))
    return found


def _wanted(index: ports.VectorIndex, chunk: Chunk, embedder: Embedder, before: Embedder | None) -> FieldValue:
    """Return the value for a chunk; one that SAM's own embedder made since is kept where it serves again."""
    value = index.value(chunk)
    if value.present or embedder.provider != "host" or before is None:
        return value
    by_host = isinstance(chunk.embedding, list) and len(chunk.embedding) == embedder.dimension
    if before.identity == embedder.identity or (by_host and before.dimension != embedder.dimension):
        return FieldValue(present=True, content=chunk.embedding)
    return value


def _index(world: World, generation: Generation) -> ports.VectorIndex:
    return world.generations.index(generation.generation_id, dimension=generation.embedder.dimension)
