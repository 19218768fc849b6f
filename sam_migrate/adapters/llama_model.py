"""llama.cpp itself, for the child process only: one model in memory, a context each for vectors and for text.

The low-level interface is used because the comfortable one keeps one context per loaded model, cuts the closing
token off long texts, and cannot switch the extra buffer types off.
"""

from __future__ import annotations

import ctypes
import os
from typing import TYPE_CHECKING, Any, cast

import llama_cpp
import numpy as np
from llama_cpp.llama_chat_format import Jinja2ChatFormatter

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    from numpy.typing import NDArray

EMBED_TOKENS = 512
BATCH_TOKENS = 512
# llama.cpp aborts on batches above this that are no multiple of it.
BATCH_UNIT = 256
SEQUENCES_MAX = 64
# Nobody's tokens are longer on average; some tokenizers recurse over the length of the text.
TOKEN_CHARACTERS_MAX = 32
PIECE_BYTES = 256
# ggml's numbers for warnings and errors.
LOG_LEVELS = (3, 4)
POOLING_NONE, POOLING_MEAN, POOLING_RANK = 0, 1, 4
# C functions take no keywords.
CLEAR_DATA, SPECIAL_PIECES = True, False


class Model:
    """A loaded model; contexts are made when first needed. Raises ValueError or RuntimeError with a sentence."""

    def __init__(
        self, path: str, *, safe_mode: bool, context_tokens: int, threads: int | None, tick: Callable[[], None]
    ) -> None:
        """Load the file; `tick` is called whenever a piece of work is done."""
        llama_cpp.llama_log_set(_log, ctypes.c_void_p(0))
        llama_cpp.llama_backend_init()
        self._tick = tick
        self._threads = threads or _usable_cores()
        self._model = self._load(path, safe_mode=safe_mode)
        self._vocabulary = llama_cpp.llama_model_get_vocab(self._model)
        self._embedding: int | None = None
        self._generation: int | None = None
        self.dimension = llama_cpp.llama_model_n_embd_out(self._model)
        self.context_length = llama_cpp.llama_model_n_ctx_train(self._model)
        self._embed_tokens = _whole_batch(min(EMBED_TOKENS, self.context_length))
        self._generation_tokens = min(context_tokens, self.context_length)

    def facts(self) -> dict[str, Any]:
        """Tell what only the loaded model knows."""
        return {
            "dimension": self.dimension,
            "context_length": self.context_length,
            "generates": self._generates(),
        }

    def render(self, messages: Sequence[dict[str, str]]) -> str | None:
        """Render the conversation with the model's own chat template; None when it has none."""
        template = llama_cpp.llama_model_chat_template(self._model, None)
        if template is None:
            template = llama_cpp.llama_model_chat_template(self._model, b"default")
        if template is None:
            return None
        formatter = Jinja2ChatFormatter(
            template=template.decode(errors="replace"),
            eos_token=self._token_text(llama_cpp.llama_vocab_eos(self._vocabulary)),
            bos_token=self._token_text(llama_cpp.llama_vocab_bos(self._vocabulary)),
        )
        return str(formatter(messages=cast("Any", messages)).prompt)

    def embed(self, texts: Sequence[str]) -> tuple[NDArray[np.float32], int]:
        """Return the vectors as the model gives them, and how many of the texts differ as token sequences."""
        sequences = [self._embedding_tokens(text) for text in texts]
        vectors = np.empty((len(texts), self.dimension), dtype=np.float32)
        done = 0
        while done < len(sequences):
            group = _fitting(sequences[done:], tokens=self._embed_tokens, sequences_max=self._sequences_max())
            vectors[done : done + len(group)] = self._embed_group(group)
            done += len(group)
            self._tick()
        return vectors, len({tuple(sequence) for sequence in sequences})

    def generate(self, prompt: str, options: dict[str, Any]) -> tuple[str, int]:
        """Continue the prompt; return the text and the number of tokens made."""
        if not self._generates():
            raise ValueError("the model makes vectors, not text")
        context = self._generation_context()
        tokens = self._prompt_tokens(prompt)
        room = self._generation_tokens - len(tokens)
        if room < 1:
            raise ValueError(f"the prompt has {len(tokens)} tokens, the context {self._generation_tokens}")
        memory = llama_cpp.llama_get_memory(context)
        if memory is not None:
            llama_cpp.llama_memory_clear(memory, CLEAR_DATA)
        sampler = self._sampler(options)
        try:
            return self._sampled(context, sampler, tokens, limit=min(options["max_tokens"], room), stop=options["stop"])
        finally:
            llama_cpp.llama_sampler_free(sampler)

    def _load(self, path: str, *, safe_mode: bool) -> int:
        parameters = llama_cpp.llama_model_default_params()
        parameters.n_gpu_layers = 0
        if safe_mode:
            # The extra buffer types repack quantised weights; on some processors that code crashes.
            parameters.use_extra_bufts = False

        def progressed(_share: float, _data: int) -> bool:
            self._tick()
            return True

        callback = llama_cpp.llama_progress_callback(progressed)
        parameters.progress_callback = callback
        model: int | None = llama_cpp.llama_model_load_from_file(os.fsencode(path), parameters)
        if not model:
            raise ValueError("llama.cpp cannot load the file")
        return model

    def _generates(self) -> bool:
        if llama_cpp.llama_model_has_encoder(self._model) or not llama_cpp.llama_model_has_decoder(self._model):
            return False
        return bool(llama_cpp.llama_get_causal_attn(self._embedding_context()))

    def _embedding_context(self) -> int:
        if self._embedding is None:
            parameters = llama_cpp.llama_context_default_params()
            parameters.n_ctx = parameters.n_batch = parameters.n_ubatch = self._embed_tokens
            parameters.n_seq_max = self._sequences_max()
            parameters.kv_unified = True
            parameters.embeddings = True
            parameters.pooling_type = self._pooling()
            # Without it the packed batch attends over all of its tokens and gets slower as it grows.
            parameters.flash_attn_type = llama_cpp.LLAMA_FLASH_ATTN_TYPE_ENABLED
            self._embedding = self._context(parameters)
        return self._embedding

    def _generation_context(self) -> int:
        if self._generation is None:
            parameters = llama_cpp.llama_context_default_params()
            parameters.n_ctx = self._generation_tokens
            parameters.n_batch = parameters.n_ubatch = _whole_batch(min(BATCH_TOKENS, self._generation_tokens))
            self._generation = self._context(parameters)
        return self._generation

    def _context(self, parameters: llama_cpp.llama_context_params) -> int:
        parameters.n_threads = parameters.n_threads_batch = self._threads
        parameters.no_perf = True
        context: int | None = llama_cpp.llama_init_from_model(self._model, parameters)
        if not context:
            raise RuntimeError("llama.cpp cannot make a context for the model")
        return context

    def _pooling(self) -> int:
        own = self._meta(f"{self._meta('general.architecture')}.pooling_type")
        pooling = int(own) if own and own.isdecimal() else POOLING_NONE
        if pooling == POOLING_RANK:
            raise ValueError("the model ranks texts; it has no vectors")
        # Vectors would come per token; a generator's are averaged.
        return POOLING_MEAN if pooling == POOLING_NONE else pooling

    def _sequences_max(self) -> int:
        # Recurrent models keep their whole state once per sequence.
        if llama_cpp.llama_model_is_recurrent(self._model) or llama_cpp.llama_model_is_hybrid(self._model):
            return 1
        return min(SEQUENCES_MAX, self._embed_tokens)

    def _embed_group(self, group: Sequence[Sequence[int]]) -> NDArray[np.float32]:
        context = self._embedding_context()
        memory = llama_cpp.llama_get_memory(context)
        if memory is not None:
            llama_cpp.llama_memory_clear(memory, CLEAR_DATA)
        batch = llama_cpp.llama_batch_init(self._embed_tokens, 0, 1)
        try:
            _fill(batch, group)
            _check(llama_cpp.llama_decode(context, batch))
            rows = [self._row(context, sequence) for sequence in range(len(group))]
        finally:
            llama_cpp.llama_batch_free(batch)
        return np.stack(rows)

    def _row(self, context: int, sequence: int) -> NDArray[np.float32]:
        pointer = llama_cpp.llama_get_embeddings_seq(context, sequence)
        if not pointer:
            raise RuntimeError("the model gave no vector")
        return np.ctypeslib.as_array(pointer, shape=(self.dimension,)).copy()

    def _embedding_tokens(self, text: str) -> list[int]:
        limit = self._embed_tokens
        tokens = self._tokens(text[: limit * TOKEN_CHARACTERS_MAX], special=False)
        if len(tokens) <= limit:
            return tokens
        closing = (llama_cpp.llama_vocab_sep(self._vocabulary), llama_cpp.llama_vocab_eos(self._vocabulary))
        return [*tokens[: limit - 1], tokens[-1]] if tokens[-1] in closing else tokens[:limit]

    def _prompt_tokens(self, prompt: str) -> list[int]:
        opening = self._token_text(llama_cpp.llama_vocab_bos(self._vocabulary))
        # Chat templates write the opening token themselves; twice it would confuse the model.
        return self._tokens(prompt, special=True, add=not (opening and prompt.startswith(opening)))

    def _tokens(self, text: str, *, special: bool, add: bool = True) -> list[int]:
        data = text.encode(errors="replace")
        room = len(data) + 16
        buffer = (llama_cpp.llama_token * room)()
        count = llama_cpp.llama_tokenize(self._vocabulary, data, len(data), buffer, room, add, special)
        if count < 0:
            raise RuntimeError(f"the text makes {-count} tokens where {room} were expected")
        # Nothing at all cannot be computed: the model's own opening stands for it.
        return list(buffer[:count]) or [max(llama_cpp.llama_vocab_bos(self._vocabulary), 0)]

    def _sampler(self, options: dict[str, Any]) -> int:
        chain: int = llama_cpp.llama_sampler_chain_init(llama_cpp.llama_sampler_chain_default_params())
        if options["repeat_penalty"] != 1.0:
            size = llama_cpp.llama_vocab_n_tokens(self._vocabulary)
            penalties = llama_cpp.llama_sampler_init_penalties(size, 64, options["repeat_penalty"], 0.0, 0.0)
            llama_cpp.llama_sampler_chain_add(chain, penalties)
        if options["temperature"] <= 0:
            llama_cpp.llama_sampler_chain_add(chain, llama_cpp.llama_sampler_init_greedy())
            return chain
        for part in (
            llama_cpp.llama_sampler_init_top_k(options["top_k"]),
            llama_cpp.llama_sampler_init_top_p(options["top_p"], 1),
            llama_cpp.llama_sampler_init_min_p(options["min_p"], 1),
            llama_cpp.llama_sampler_init_temp(options["temperature"]),
            llama_cpp.llama_sampler_init_dist(options["seed"]),
        ):
            llama_cpp.llama_sampler_chain_add(chain, part)
        return chain

    def _sampled(
        self, context: int, sampler: int, tokens: Sequence[int], *, limit: int, stop: Sequence[str]
    ) -> tuple[str, int]:
        pieces, made = b"", 0
        waiting = list(tokens)
        while made < limit:
            self._decode(context, waiting)
            token = llama_cpp.llama_sampler_sample(sampler, context, -1)
            if llama_cpp.llama_vocab_is_eog(self._vocabulary, token):
                break
            made += 1
            pieces += self._piece(token)
            text = pieces.decode(errors="replace")
            found = [text.index(word) for word in stop if word and word in text]
            if found:
                return text[: min(found)], made
            waiting = [token]
        return pieces.decode(errors="replace"), made

    def _decode(self, context: int, tokens: Sequence[int]) -> None:
        size = llama_cpp.llama_n_batch(context)
        for begin in range(0, len(tokens), size):
            part = tokens[begin : begin + size]
            array = (llama_cpp.llama_token * len(part))(*part)
            _check(llama_cpp.llama_decode(context, llama_cpp.llama_batch_get_one(array, len(part))))
            self._tick()
        pointer = llama_cpp.llama_get_logits_ith(context, -1)
        logits = np.ctypeslib.as_array(pointer, shape=(llama_cpp.llama_vocab_n_tokens(self._vocabulary),))
        if not np.isfinite(logits).all() or logits.min() == logits.max():
            raise RuntimeError("the model's output is not numbers, or the same for every token")

    def _piece(self, token: int) -> bytes:
        buffer = ctypes.create_string_buffer(PIECE_BYTES)
        length = llama_cpp.llama_token_to_piece(self._vocabulary, token, buffer, PIECE_BYTES, 0, SPECIAL_PIECES)
        return buffer.raw[: max(length, 0)]

    def _token_text(self, token: int) -> str:
        if token < 0:
            return ""
        text: bytes | None = llama_cpp.llama_vocab_get_text(self._vocabulary, token)
        return (text or b"").decode(errors="replace")

    def _meta(self, key: str) -> str:
        buffer = ctypes.create_string_buffer(PIECE_BYTES)
        length = llama_cpp.llama_model_meta_val_str(self._model, key.encode(), buffer, PIECE_BYTES)
        return buffer.value.decode(errors="replace") if length >= 0 else ""


def _say(level: int, text: bytes, _data: ctypes.c_void_p) -> None:
    # The binding's own callback is one level off: it shows the chatter and hides the errors.
    if level in LOG_LEVELS:
        os.write(2, text)


# Kept for the life of the process: llama.cpp holds nothing but its address.
_log = llama_cpp.llama_log_callback(_say)


def _fitting(sequences: Sequence[list[int]], *, tokens: int, sequences_max: int) -> Sequence[list[int]]:
    total = 0
    for index, sequence in enumerate(sequences[:sequences_max]):
        total += len(sequence)
        if total > tokens:
            return sequences[:index]
    return sequences[:sequences_max]


def _fill(batch: Any, group: Sequence[Sequence[int]]) -> None:  # noqa: ANN401 - the binding's types fit no pointer
    at = 0
    for number, sequence in enumerate(group):
        for position, token in enumerate(sequence):
            batch.token[at] = token
            batch.pos[at] = position
            batch.n_seq_id[at] = 1
            batch.seq_id[at][0] = number
            batch.logits[at] = 1
            at += 1
    batch.n_tokens = at


def _check(code: int) -> None:
    if code:
        raise RuntimeError(f"llama.cpp cannot compute the batch (code {code})")


def _whole_batch(tokens: int) -> int:
    return tokens - tokens % BATCH_UNIT if tokens > BATCH_UNIT else tokens


def _usable_cores() -> int:
    if hasattr(os, "sched_getaffinity"):
        return len(os.sched_getaffinity(0))
    return os.cpu_count() or 1
