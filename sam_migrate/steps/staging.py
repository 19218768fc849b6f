"""What several steps need of the generation being built: its embedder, its vectors, what SAM served before it."""

from __future__ import annotations

from contextlib import closing, contextmanager
from typing import TYPE_CHECKING, Final

from sam_migrate.domain.engine import Embedder
from sam_migrate.errors import FailedError, IntegrityError

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Iterator, Sequence

    from sam_migrate.domain.engine import ServedEngine
    from sam_migrate.domain.generation import Chunk
    from sam_migrate.model_interface import BaseModelEngine
    from sam_migrate.ports import VectorIndex
    from sam_migrate.steps.world import Work

HOST_EMBEDDER: Final = Embedder(provider="host", identity="host:all-MiniLM-L6-v2", dimension=384)
WINDOW_CHARACTERS: Final = 8192
"""Texts are embedded in fixed windows of about this length, so that a resumed run gives the same bits."""

Text = tuple[str, str]
"""A content hash and the text it is the hash of."""


def capture(work: Work) -> None:
    """Keep SAM's own vectors as they are, for the generation 0 that the first commit records. Idempotent."""
    capture_id = work.state.begun.capture_id
    if capture_id is None:
        return
    generations = work.world.generations
    with closing(generations.index(capture_id, dimension=HOST_EMBEDDER.dimension)) as index:
        index.capture(work.world.host.chunks())
    generations.write_prompts(capture_id, {})


def serving_embedder(work: Work) -> Embedder:
    """Return the embedder of what serves while the run prepares."""
    return work.base.embedder if work.base is not None else HOST_EMBEDDER


def serving_id(work: Work) -> str:
    """Return the generation that serves while the run prepares: the base, or the capture of SAM's own state."""
    serving = work.state.begun.base or work.state.begun.capture_id
    if serving is None:
        raise IntegrityError(f"{work.state.migration_id} neither has a base nor captured one")
    return serving


def new_embedder(work: Work) -> Embedder:
    """Return the embedder of the generation being built: the new engine, or the one that serves where it is kept."""
    probed = work.state.probed
    if not work.state.required.re_embed_knowledge or probed is None:
        return serving_embedder(work)
    return Embedder(
        provider="engine",
        identity=probed.embedder_identity,
        dimension=probed.facts.dimension,
        engine=probed.engine,
    )


def texts(chunks: Iterable[Chunk]) -> list[Text]:
    """Return every text once, in the order of the chunk ids."""
    return list({chunk.content_hash: chunk.content for chunk in chunks}.items())


def windows(ordered: Sequence[Text]) -> Iterator[list[Text]]:
    """Cut the texts into windows of a bounded length, always at the same places."""
    window: list[Text] = []
    length = 0
    for text in ordered:
        window.append(text)
        length += len(text[1])
        if length >= WINDOW_CHARACTERS:
            yield window
            window, length = [], 0
    if window:
        yield window


def embed(
    engine: BaseModelEngine, index: VectorIndex, pending: Sequence[list[Text]], *, stored: Callable[[int], None]
) -> None:
    """Embed whole windows and make each durable; `stored` hears of every window after it is."""
    vectors_of = engine.embed_windows([[text for _, text in window] for window in pending])
    for window, vectors in zip(pending, vectors_of, strict=True):
        index.put([content_hash for content_hash, _ in window], vectors)
        stored(len(window))


@contextmanager
def opened(work: Work, generation_id: str, embedder: Embedder) -> Iterator[BaseModelEngine]:
    """Load the generation's embedding engine from its own link, for the length of the block."""
    engine = embedder.engine
    if engine is None:
        raise FailedError("SAM's own embedder is not at hand here")
    generations = work.world.generations
    path = generations.model(generation_id, role="embedder") or generations.model(generation_id)
    if path is None:
        raise FailedError(f"generation {generation_id} has lost its model file")
    loaded = work.world.engines.open(engine, path, safe_mode=_safe_mode(work, engine), heed=work.heed)
    try:
        yield loaded
    finally:
        loaded.unload_model()


def _safe_mode(work: Work, engine: ServedEngine) -> bool:
    """Tell how this engine has to be loaded: as it was probed, by this run or by the one that made it serve."""
    probed = work.state.probed
    if probed is not None and probed.engine.sha256 == engine.sha256:
        return probed.facts.safe_mode
    return any(known.safe_mode for known in work.home.generations if known.engine.sha256 == engine.sha256)


def complete(work: Work, generation_id: str, embedder: Embedder) -> int:
    """Embed every chunk that has no vector in the generation yet; return how many must stay without one."""
    with closing(work.world.generations.index(generation_id, dimension=embedder.dimension)) as index:
        missing = texts(chunk for chunk in work.world.host.chunks() if not index.value(chunk).present)
        if not missing or embedder.provider == "host":
            return len(missing)
        with opened(work, generation_id, embedder) as engine:
            embed(engine, index, list(windows(missing)), stored=lambda _: work.heed())
    return 0
