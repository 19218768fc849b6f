"""The engine as SAM knows it: a status and an abstract class; a leaf that imports nothing of ours."""

from __future__ import annotations

import abc
from enum import Enum
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator, Sequence

    import numpy as np
    from numpy.typing import NDArray


class ModelStatus(Enum):
    """Where an engine stands; consumers compare by value."""

    LOADING = "loading"
    READY = "ready"
    ERROR = "error"
    UNAVAILABLE = "unavailable"


class BaseModelEngine(abc.ABC):
    """A language model that can be loaded, asked, and unloaded again."""

    def __init__(self, engine_id: str, model_name: str, model_path: str) -> None:
        """Name the engine and where its model is; nothing is loaded yet."""
        self.engine_id = engine_id
        self.model_name = model_name
        self.model_path = model_path
        self.status = ModelStatus.LOADING
        self.is_loaded = False

    @abc.abstractmethod
    def load_model(self) -> bool:
        """Load the model into memory; return whether that worked."""

    @abc.abstractmethod
    def generate(self, prompt: str, **kwargs: Any) -> str:  # noqa: ANN401 - the documented signature
        """Generate text; raise RuntimeError before the model is loaded."""

    @abc.abstractmethod
    def embed(self, text: str) -> list[float]:
        """Return the vector of the text; raise RuntimeError before the model is loaded."""

    @abc.abstractmethod
    def unload_model(self) -> bool:
        """Release the model's memory; return whether that worked."""

    def embed_batch(self, texts: Sequence[str]) -> NDArray[np.float32]:
        """Return the vectors of the texts, one row each; engines that can do many at once override this."""
        # Whoever only reads an engine's name should not pay for numpy.
        import numpy as np  # noqa: PLC0415

        if not texts:
            return np.zeros((0, 0), dtype=np.float32)
        return np.asarray([self.embed(text) for text in texts], dtype=np.float32)

    def embed_windows(self, windows: Iterable[Sequence[str]]) -> Iterator[NDArray[np.float32]]:
        """Yield the vectors of one window of texts after the other, in order."""
        for window in windows:
            yield self.embed_batch(window)

    def get_engine_info(self) -> dict[str, Any]:
        """Return the five facts SAM shows of an engine."""
        return {
            "engine_id": self.engine_id,
            "model_name": self.model_name,
            "model_path": self.model_path,
            "status": self.status.value,
            "is_loaded": self.is_loaded,
        }
