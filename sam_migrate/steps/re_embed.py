"""Step `re_embed`: every chunk through the new embedder into the new generation's index, resumable by window."""

from __future__ import annotations

from contextlib import closing
from typing import TYPE_CHECKING, Final

from sam_migrate.domain import events
from sam_migrate.steps import staging

if TYPE_CHECKING:
    from sam_migrate.domain.engine import Embedder
    from sam_migrate.ports import VectorIndex
    from sam_migrate.steps.world import Work

REPORT_SECONDS: Final = 1.0
"""The log hears of progress at most so often; the vectors themselves are durable window by window."""


def run(work: Work) -> events.Event:
    """Embed what the cache does not hold yet, then give the generation its own copy of the vectors."""
    embedder, serving = staging.new_embedder(work), staging.serving_embedder(work)
    if embedder.identity == serving.identity:
        _share(work, embedder)
        asked = work.state.required.re_embed_knowledge
        reason = "the embedder is the same as before" if asked else "not asked for: the vectors that serve are kept"
        return events.StepSkipped(step="re_embed", reason=reason)
    with closing(work.world.generations.cache(embedder.identity, dimension=embedder.dimension)) as cache:
        rate = _fill(work, cache, embedder)
        return _copy(work, cache, embedder, rate)


def _share(work: Work, embedder: Embedder) -> None:
    """Give the generation the vectors that serve, and the model that made them."""
    generations, generation_id = work.world.generations, work.state.begun.generation_id
    serving = staging.serving_id(work)
    with (
        closing(generations.index(serving, dimension=embedder.dimension)) as source,
        closing(generations.index(generation_id, dimension=embedder.dimension)) as index,
    ):
        index.copy_from(source)
    fetched = work.state.fetched
    if embedder.engine and fetched and embedder.engine.sha256 != fetched.engine.sha256:
        path = generations.model(serving, role="embedder") or generations.model(serving)
        if path is not None:
            generations.link_model(generation_id, path, role="embedder")


def _fill(work: Work, cache: VectorIndex, embedder: Embedder) -> float:
    """Embed the windows that are not durable yet; return chunks per second."""
    clock, observer = work.world.clock, work.world.observer
    ordered = staging.texts(work.world.host.chunks())
    missing = set(cache.missing(content_hash for content_hash, _ in ordered))
    pending = [
        window for window in staging.windows(ordered) if any(content_hash in missing for content_hash, _ in window)
    ]
    total = len(ordered)
    done = total - sum(len(window) for window in pending)
    work.record(events.ChunksEmbedded(done=done, total=total))
    if not pending:
        return 0.0
    started = reported = clock.monotonic()
    first = done

    def stored(count: int) -> None:
        nonlocal done, reported
        done += count
        observer.progressed(done=done, total=total, unit="chunks")
        if clock.monotonic() - reported >= REPORT_SECONDS:
            reported = clock.monotonic()
            work.record(events.ChunksEmbedded(done=done, total=total))
        work.heed()

    observer.progressed(done=done, total=total, unit="chunks")
    with staging.opened(work, work.state.begun.generation_id, embedder) as engine:
        staging.embed(engine, cache, pending, stored=stored)
    return (done - first) / max(0.001, clock.monotonic() - started)


def _copy(work: Work, cache: VectorIndex, embedder: Embedder, rate: float) -> events.IndexBuilt:
    with closing(work.world.generations.index(work.state.begun.generation_id, dimension=embedder.dimension)) as index:
        index.copy_from(cache)
        sealed = index.seal()
    return events.IndexBuilt(
        chunks=work.world.host.chunk_count(), vectors=sealed.count, chunks_per_second=round(rate, 1)
    )
