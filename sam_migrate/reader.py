"""For whoever reads SAM's state: the serving generation, resolved once, and everything by that id.

A reader gets the old generation or the new one whole, never a mixture. `get_embedding_manager()` has the methods
SAM's query side calls, and follows the serving generation.
"""

from __future__ import annotations

import threading
from contextlib import closing
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from sam_migrate import bootstrap, codec, config
from sam_migrate.domain import events
from sam_migrate.errors import FailedError

if TYPE_CHECKING:
    import os
    from collections.abc import Sequence
    from pathlib import Path

    import numpy as np
    from numpy.typing import NDArray

    from sam_migrate.config import Settings
    from sam_migrate.domain.generation import Generation
    from sam_migrate.model_interface import BaseModelEngine


@dataclass(frozen=True, slots=True, kw_only=True)
class ActiveGeneration:
    """One generation as a reader sees it; everything here belongs together, whatever is committed meanwhile."""

    settings: Settings
    generation: Generation

    @property
    def configuration(self) -> dict[str, Any]:
        """Return this generation's configuration values, nested as in `sam_config.json`."""
        values: dict[str, Any] = {}
        for field in self.generation.fields:
            if field.document == "configuration" and field.value.present:
                node = values
                for key in field.path[:-1]:
                    node = node.setdefault(key, {})
                node[field.path[-1]] = field.value.content
        return values

    @property
    def prompts(self) -> dict[str, Any]:
        """Return this generation's prompt set."""
        return bootstrap.open_generations(self.settings).prompts(self.generation.generation_id)

    def embedder(self) -> BaseModelEngine:
        """Load the engine that made this generation's vectors; the caller unloads it."""
        embedder = self.generation.embedder
        generations = bootstrap.open_generations(self.settings)
        generation_id = self.generation.generation_id
        path = generations.model(generation_id, role="embedder") or generations.model(generation_id)
        if embedder.engine is None or path is None:
            raise FailedError(f"generation {generation_id} is embedded by SAM's own MiniLM")
        return bootstrap.open_engine(self.settings, embedder.engine, path, safe_mode=self.generation.safe_mode)

    def search(self, vector: Sequence[float], *, limit: int = 5) -> list[tuple[str, float]]:
        """Return the content hashes (SHA-256 of the texts) of the nearest chunks with their scores, best first."""
        generations = bootstrap.open_generations(self.settings)
        index = generations.index(self.generation.generation_id, dimension=self.generation.embedder.dimension)
        with closing(index):
            return index.search(vector, limit=limit)


def active_generation(home: str | os.PathLike[str] | None = None) -> ActiveGeneration | None:
    """Resolve the serving generation, once; None where SAM was never migrated."""
    settings = config.read(home)
    store = bootstrap.open_log(settings)
    if store is None:
        return None
    with closing(store):
        head = store.stream_head("home")
        if head is None:
            return None
        for event in codec.decode_all(store.read("home", after_version=head.version - 1)):
            if isinstance(event, events.GenerationCommitted):
                return ActiveGeneration(settings=settings, generation=event.generation)
    return None


class EmbeddingManager:
    """SAM's embedding manager, bound to one generation: a commit meanwhile does not change it."""

    def __init__(self, active: ActiveGeneration) -> None:
        """Load the generation's embedding engine."""
        self.active = active
        self._engine = active.embedder()
        self._lock = threading.Lock()

    @property
    def embedding_dim(self) -> int:
        """Return the number of floats of a vector."""
        return self.active.generation.embedder.dimension

    def embed(self, text: str) -> NDArray[np.float32]:
        """Return the normalised vector of one text (float32, `embedding_dim` long)."""
        vector: NDArray[np.float32] = self.embed_batch([text])[0]
        return vector

    def embed_batch(self, texts: Sequence[str]) -> NDArray[np.float32]:
        """Return the normalised vectors of the texts (n x `embedding_dim` float32)."""
        with self._lock:
            return self._engine.embed_batch(texts)

    def embed_query(self, query: str) -> NDArray[np.float32]:
        """Return the vector of a query; the same space as the chunks'."""
        return self.embed(query)

    def encode_for_storage(self, texts: Sequence[str]) -> list[list[float]]:
        """Return the vectors of the texts as lists, as SAM's files keep them."""
        stored: list[list[float]] = self.embed_batch(texts).tolist()
        return stored

    def similarity(self, first: NDArray[np.float32], second: NDArray[np.float32]) -> float:
        """Return the dot product, which is the cosine of normalised vectors."""
        return float(first @ second)

    def get_model_info(self) -> dict[str, Any]:
        """Describe the embedder."""
        embedder = self.active.generation.embedder
        return {
            "model_name": embedder.engine.model_name if embedder.engine else embedder.identity,
            "embedding_dim": embedder.dimension,
            "identity": embedder.identity,
            "generation": self.active.generation.generation_id,
        }

    def close(self) -> None:
        """Unload the engine. Idempotent."""
        self._engine.unload_model()


_managers: dict[Path, EmbeddingManager] = {}
_managers_lock = threading.Lock()


def get_embedding_manager(
    model_name: str | None = None, *, home: str | os.PathLike[str] | None = None
) -> EmbeddingManager:
    """Return the process-wide manager of the serving generation; a new one after a commit.

    `model_name` is accepted as SAM passes it; the generation decides. Raises FailedError where the vectors are
    SAM's own and its MiniLM must be asked.
    """
    del model_name
    active = active_generation(home)
    if active is None:
        raise FailedError("no generation of ours serves here: SAM's own embedder answers")
    key = active.settings.home
    with _managers_lock:
        known = _managers.get(key)
        if known is not None and known.active.generation.generation_id == active.generation.generation_id:
            return known
        # The former one is let go, not closed: who still holds it goes on reading the generation it resolved.
        manager = _managers[key] = EmbeddingManager(active)
    return manager
