"""Engines that run in llama.cpp, seen from the parent, which never imports llama.cpp itself.

The model lives in a child process: whatever a bad file does to llama.cpp is an EngineError here.
"""

from __future__ import annotations

from collections import deque
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np

from sam_migrate.adapters.llama_process import LlamaProcess
from sam_migrate.domain.engine import ProbeFacts
from sam_migrate.errors import EngineError
from sam_migrate.model_interface import BaseModelEngine, ModelStatus

if TYPE_CHECKING:
    from collections.abc import Generator, Iterable, Iterator, Sequence
    from pathlib import Path

    from sam_migrate.domain.engine import ServedEngine
    from sam_migrate.ports import Heed, Vectors

    Answer = tuple[dict[str, Any], bytes]

# Seconds without any sign of life. The child reports every piece of a model loaded, every batch, every token; what
# remains is the longest single computation: one batch of 512 tokens on a large model and a slow machine.
LOAD_SECONDS = 600.0
COMPUTE_SECONDS = 600.0
RENDER_SECONDS = 20.0

CONTEXT_TOKENS = 4096
WINDOWS_AHEAD = 2
SAME_MAX = 1e-6
DAMAGED_HINT = "The model file is damaged, or the model makes no vectors; choose another one."
OPTIONS: dict[str, Any] = {
    "max_tokens": 256,
    "temperature": 0.7,
    "top_k": 40,
    "top_p": 0.95,
    "min_p": 0.05,
    "repeat_penalty": 1.0,
    "seed": 0,
    "stop": (),
}

PROBE_TOKENS = 16
PROBE_PROMPT = "The capital of France is"
PROBE_MESSAGES = ({"role": "user", "content": "What is the capital of France?"},)
PROBE_TEXTS = (
    "The ferry leaves the old harbour every morning at seven, unless the wind is stronger than eight.",
    "Invoices above ten thousand need a second signature, and the auditor keeps a copy for six years.",
    "Bread dough rests for an hour in a warm kitchen before it is folded, shaped and put into the oven.",
    "def reverse(items): return list(items)[::-1]  # a copy, from the last element to the first",
    "Photosynthesis turns light, water and carbon dioxide into sugar; the oxygen is what remains of it.",
    "She moved her queen to the seventh rank, offered a draw, and went out to look at the snow.",
    "Reset the router by holding the small button for ten seconds until the lamp blinks twice.",
    "42, 17.5, -3 and 0.001 are numbers; the first is even, the third negative, the last one small.",
)


class Loaded(NamedTuple):
    """What belongs together while a model is loaded."""

    process: LlamaProcess
    dimension: int
    context_length: int


class LlamaEngine(BaseModelEngine):
    """A GGUF model in a child process of its own; vectors come normalised, as float32."""

    def __init__(
        self,
        engine_id: str,
        model_name: str,
        model_path: str,
        *,
        safe_mode: bool = False,
        heed: Heed | None = None,
        deadline_seconds: float | None = None,
        log_directory: Path | None = None,
        threads: int | None = None,
        context_tokens: int = CONTEXT_TOKENS,
    ) -> None:
        """Name the model; `deadline_seconds` replaces every limit of silence, `threads` the usable cores."""
        super().__init__(engine_id, model_name, model_path)
        self.last_error: EngineError | None = None
        self._safe_mode = safe_mode
        self._heed = heed
        self.deadline_seconds = deadline_seconds
        self._log_directory = log_directory
        self._threads = threads
        self._context_tokens = context_tokens
        self._loaded: Loaded | None = None

    @property
    def dimension(self) -> int:
        """Floats in a vector."""
        return self._running().dimension

    @property
    def context_length(self) -> int:
        """Tokens the model was trained to see at once."""
        return self._running().context_length

    @property
    def pid(self) -> int:
        """The process id of the child."""
        return self._running().process.pid

    def load_model(self) -> bool:
        """Load the model; on False `last_error` says why."""
        try:
            self.load()
        except EngineError:
            return False
        return True

    def load(self) -> None:
        """Start the child and load the model; raise EngineError when that fails. Idempotent."""
        if self._loaded is not None:
            return
        self.status = ModelStatus.LOADING
        try:
            process = LlamaProcess(self._heed, log_directory=self._log_directory)
            try:
                self._loaded = self._load_into(process)
            except BaseException:
                process.close()
                raise
        except EngineError as error:
            self.last_error = error
            self.status = ModelStatus.ERROR
            raise
        self.status = ModelStatus.READY
        self.is_loaded = True

    def generate(self, prompt: str, **kwargs: Any) -> str:  # noqa: ANN401 - the documented signature
        """Continue the prompt; takes the options of OPTIONS. Raises EngineError (a RuntimeError)."""
        return str(self._generate(prompt, **kwargs)["text"])

    def embed(self, text: str) -> list[float]:
        """Return the normalised vector of the text; what is longer than 512 tokens is cut."""
        vector: list[float] = self.embed_batch([text])[0].tolist()
        return vector

    def embed_batch(self, texts: Sequence[str]) -> Vectors:
        """Return the normalised vectors of the texts, computed in one packed request."""
        return next(self.embed_windows([texts]))

    def embed_windows(self, windows: Iterable[Sequence[str]]) -> Generator[Vectors]:
        """Yield the vectors of window after window; the child computes the next while the caller uses the last.

        Batches never cross a window, so the same window gives the same bits whatever came before it.
        """
        process = self._running().process
        sent: deque[tuple[int, Sequence[str]]] = deque()
        try:
            for window in windows:
                sent.append((self._send_texts(process, window), window))
                if len(sent) > WINDOWS_AHEAD:
                    yield self._receive_vectors(process, *sent.popleft())
            while sent:
                yield self._receive_vectors(process, *sent.popleft())
        finally:
            for number, _ in sent:
                process.forget(number)

    def unload_model(self) -> bool:
        """End the child and free its memory. Idempotent."""
        if self._loaded is not None:
            self._loaded.process.close()
            self._loaded = None
        self.status = ModelStatus.UNAVAILABLE
        self.is_loaded = False
        return True

    def render(self, messages: Sequence[dict[str, str]]) -> str | None:
        """Render a conversation with the model's own chat template; None when it has none."""
        answer, _ = self._ask("render", RENDER_SECONDS, messages=list(messages))
        prompt: str | None = answer["prompt"]
        return prompt

    def probe(self) -> ProbeFacts:
        """Try everything a generation needs of the loaded model, and measure it."""
        rendered = self._probe_template()
        facts, _ = self._ask("facts", COMPUTE_SECONDS)
        generated: dict[str, Any] = {"text": "", "tokens": 0, "seconds": 1.0}
        if facts["generates"]:
            generated = self._generate(PROBE_PROMPT, max_tokens=PROBE_TOKENS, temperature=0.0)
        # The first batch pays for the context's memory; the second one is the rate.
        self.embed_batch(PROBE_TEXTS[:1])
        answer, payload = self._ask("embed", COMPUTE_SECONDS, texts=list(PROBE_TEXTS))
        _vectors(answer, payload, count=len(PROBE_TEXTS), dimension=self.dimension)
        memory, _ = self._ask("facts", COMPUTE_SECONDS)
        return ProbeFacts(
            dimension=self.dimension,
            context_length=self.context_length,
            generates=facts["generates"],
            sample=generated["text"],
            rendered_prompt=rendered,
            embeds_per_second=len(PROBE_TEXTS) / max(answer["seconds"], 1e-6),
            tokens_per_second=generated["tokens"] / max(generated["seconds"], 1e-6),
            peak_memory_bytes=memory["peak_memory_bytes"],
            safe_mode=self._safe_mode,
        )

    def _probe_template(self) -> str | None:
        try:
            return self.render(PROBE_MESSAGES)
        except EngineError as error:
            if self._loaded is None:
                raise
            raise EngineError(f"the model's chat template does not render: {error}") from error

    def _load_into(self, process: LlamaProcess) -> Loaded:
        answer, _ = process.request(
            "load",
            silence_seconds=self._limit(LOAD_SECONDS),
            path=self.model_path,
            safe_mode=self._safe_mode,
            context_tokens=self._context_tokens,
            threads=self._threads,
        )
        return Loaded(process, answer["dimension"], answer["context_length"])

    def _generate(self, prompt: str, **kwargs: Any) -> dict[str, Any]:  # noqa: ANN401 - the documented signature
        unknown = sorted(kwargs.keys() - OPTIONS.keys())
        if unknown:
            raise TypeError(f"generate() knows no {', '.join(unknown)}; it takes {', '.join(OPTIONS)}")
        answer, _ = self._ask("generate", COMPUTE_SECONDS, prompt=prompt, options={**OPTIONS, **kwargs})
        return answer

    def _send_texts(self, process: LlamaProcess, texts: Sequence[str]) -> int:
        with self._watched():
            return process.send("embed", silence_seconds=self._limit(COMPUTE_SECONDS), texts=list(texts))

    def _receive_vectors(self, process: LlamaProcess, number: int, texts: Sequence[str]) -> Vectors:
        with self._watched():
            answer, payload = process.receive(number, silence_seconds=self._limit(COMPUTE_SECONDS))
            return _vectors(answer, payload, count=len(texts), dimension=self.dimension)

    def _ask(self, what: str, seconds: float, **fields: Any) -> Answer:  # noqa: ANN401 - JSON values
        with self._watched():
            return self._running().process.request(what, silence_seconds=self._limit(seconds), **fields)

    def _limit(self, seconds: float) -> float:
        return seconds if self.deadline_seconds is None else self.deadline_seconds

    def _running(self) -> Loaded:
        if self._loaded is None:
            raise EngineError(f"the model {self.model_name} is not loaded", hint="Call load_model() first.")
        return self._loaded

    @contextmanager
    def _watched(self) -> Iterator[None]:
        try:
            yield
        except EngineError as error:
            self.last_error = error
            if self._loaded is not None and not self._loaded.process.alive:
                self._loaded = None
                self.status = ModelStatus.ERROR
                self.is_loaded = False
            raise


class LlamaEngines:
    """Engines of GGUF files; implements the port `Engines`."""

    def __init__(self, *, log_directory: Path | None = None, threads: int | None = None) -> None:
        """Keep what llama.cpp says in `log_directory`; compute on `threads`, else on every usable core."""
        self._log_directory = log_directory
        self._threads = threads

    def probe(self, engine: ServedEngine, path: Path, *, safe_mode: bool, heed: Heed) -> ProbeFacts:
        """Load, render the chat template, generate, embed, measure, unload; raise EngineError saying what failed."""
        loaded = self.open(engine, path, safe_mode=safe_mode, heed=heed)
        try:
            return loaded.probe()
        finally:
            loaded.unload_model()

    def open(self, engine: ServedEngine, path: Path, *, safe_mode: bool, heed: Heed) -> LlamaEngine:
        """Return the engine, loaded; the caller unloads it. Raise EngineError when it does not load."""
        opened = LlamaEngine(
            engine.engine_id,
            engine.model_name,
            str(path),
            safe_mode=safe_mode,
            heed=heed,
            log_directory=self._log_directory,
            threads=self._threads,
        )
        opened.load()
        return opened


def _vectors(answer: dict[str, Any], payload: bytes, *, count: int, dimension: int) -> Vectors:
    """Check what came over the pipe, and normalise it; a damaged model computes happily, so nothing is believed."""
    raw = np.frombuffer(payload, dtype=np.float32)
    if raw.size != count * dimension:
        raise EngineError(f"the engine gave {raw.size} numbers for {count} vectors of {dimension}", hint=DAMAGED_HINT)
    vectors = raw.reshape(count, dimension)
    if not np.isfinite(vectors).all():
        raise EngineError("the engine's vectors are not numbers", hint=DAMAGED_HINT)
    lengths = np.linalg.norm(vectors, axis=1, keepdims=True)
    if count and lengths.min() <= 0:
        raise EngineError("the engine's vectors are zero", hint=DAMAGED_HINT)
    normalised: Vectors = vectors / lengths
    if answer["distinct"] > 1 and np.ptp(normalised, axis=0).max() <= SAME_MAX:
        raise EngineError("the engine gives different texts the same vector", hint=DAMAGED_HINT)
    return normalised
