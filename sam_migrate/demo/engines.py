"""Tiny but real engines, written in milliseconds: GGUF files that llama.cpp loads, embeds and generates with.

Their weights are random, but weak where texts are mixed, so that a vector is close to the mean of its pieces'
vectors: texts that share words are near each other. Seed and dimension make different engines.
"""

from __future__ import annotations

import string
from itertools import product
from typing import TYPE_CHECKING

import gguf
import numpy as np

if TYPE_CHECKING:
    from pathlib import Path

    from numpy.typing import NDArray

    Matrix = NDArray[np.float32]

CHATML = (
    "{% for message in messages %}<|im_start|>{{ message['role'] }}\n{{ message['content'] }}<|im_end|>\n{% endfor %}"
    "{% if add_generation_prompt %}<|im_start|>assistant\n{% endif %}"
)
CONTEXT_TOKENS = 512
HEAD_FLOATS = 16
BLOCKS = 1
FEED_FORWARD_FACTOR = 2
EPSILON = 1e-5
WEAK = 0.05
LORA_RANK = 4
WORD_START = "\u2581"
# Pairs of letters as tokens: a word is two to five of them, so shared words show in the mean of the vectors.
PAIRS = tuple("".join(pair) for pair in product(string.ascii_lowercase, repeat=2))
BERT_SPECIAL = ("[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]")


def write_llama(
    path: Path,
    *,
    seed: int,
    dimension: int,
    context_length: int = CONTEXT_TOKENS,
    chat_template: str | None = CHATML,
    name: str = "tiny-llama",
    base_repository: str | None = None,
) -> Path:
    """Write a generator; `dimension` is a multiple of 16."""
    writer = gguf.GGUFWriter(path, "llama")
    _describe(writer, name=name, dimension=dimension, context_length=context_length, base_repository=base_repository)
    writer.add_head_count_kv(dimension // HEAD_FLOATS)
    writer.add_layer_norm_rms_eps(EPSILON)
    writer.add_rope_dimension_count(HEAD_FLOATS)
    tokens = _llama_vocabulary(writer)
    if chat_template is not None:
        writer.add_chat_template(chat_template)
    _tensors(writer, _llama_tensors(np.random.default_rng(seed), tokens=tokens, dimension=dimension))
    return path


def write_bert(
    path: Path,
    *,
    seed: int,
    dimension: int,
    context_length: int = CONTEXT_TOKENS,
    name: str = "tiny-bert",
    base_repository: str | None = None,
) -> Path:
    """Write an embedder that does not generate; `dimension` is a multiple of 16."""
    writer = gguf.GGUFWriter(path, "bert")
    _describe(writer, name=name, dimension=dimension, context_length=context_length, base_repository=base_repository)
    writer.add_layer_norm_eps(EPSILON)
    writer.add_causal_attention(value=False)
    writer.add_pooling_type(gguf.PoolingType.MEAN)
    tokens = _bert_vocabulary(writer)
    random = np.random.default_rng(seed)
    _tensors(writer, _bert_tensors(random, tokens=tokens, dimension=dimension, context_length=context_length))
    return path


def write_lora(path: Path, *, seed: int, dimension: int, architecture: str = "llama", name: str = "tiny-lora") -> Path:
    """Write an adapter that fits the generator of the same dimension."""
    writer = gguf.GGUFWriter(path, architecture)
    writer.add_type("adapter")
    writer.add_name(name)
    writer.add_string("adapter.type", "lora")
    writer.add_float32("adapter.lora.alpha", float(LORA_RANK))
    random = np.random.default_rng(seed)
    tensors: dict[str, Matrix] = {}
    for block, layer in product(range(BLOCKS), ("attn_q", "attn_v")):
        tensors[f"blk.{block}.{layer}.weight.lora_a"] = _matrix(random, LORA_RANK, dimension, WEAK)
        tensors[f"blk.{block}.{layer}.weight.lora_b"] = _matrix(random, dimension, LORA_RANK, WEAK)
    _tensors(writer, tensors)
    return path


def _describe(
    writer: gguf.GGUFWriter, *, name: str, dimension: int, context_length: int, base_repository: str | None
) -> None:
    writer.add_type("model")
    writer.add_name(name)
    if base_repository is not None:
        writer.add_base_model_count(1)
        writer.add_base_model_repo_url(0, f"https://huggingface.co/{base_repository}")
    writer.add_context_length(context_length)
    writer.add_embedding_length(dimension)
    writer.add_block_count(BLOCKS)
    writer.add_feed_forward_length(dimension * FEED_FORWARD_FACTOR)
    writer.add_head_count(dimension // HEAD_FLOATS)


def _llama_vocabulary(writer: gguf.GGUFWriter) -> int:
    kinds = gguf.TokenType
    letters = (*string.ascii_lowercase, *(WORD_START + letter for letter in string.ascii_lowercase))
    vocabulary = [
        ("<unk>", kinds.UNKNOWN),
        ("<s>", kinds.CONTROL),
        ("</s>", kinds.CONTROL),
        ("<|im_start|>", kinds.CONTROL),
        ("<|im_end|>", kinds.CONTROL),
        *((f"<0x{byte:02X}>", kinds.BYTE) for byte in range(256)),
        *((text, kinds.NORMAL) for text in (WORD_START, *letters, *PAIRS)),
    ]
    writer.add_tokenizer_model("llama")
    writer.add_token_list([text for text, _ in vocabulary])
    writer.add_token_scores([0.0] * len(vocabulary))
    writer.add_token_types([kind for _, kind in vocabulary])
    writer.add_unk_token_id(0)
    writer.add_bos_token_id(1)
    writer.add_eos_token_id(2)
    writer.add_add_bos_token(value=True)
    return len(vocabulary)


def _bert_vocabulary(writer: gguf.GGUFWriter) -> int:
    signs = (*string.ascii_lowercase, *string.digits)
    pieces = (*signs, *PAIRS)
    # Word-initial pieces carry the sign; what continues a word stands bare.
    vocabulary = [
        *BERT_SPECIAL,
        *(WORD_START + sign for sign in string.punctuation),
        *(WORD_START + piece for piece in pieces),
        *pieces,
    ]
    writer.add_tokenizer_model("bert")
    writer.add_tokenizer_pre("jina-v2-en")
    writer.add_token_list(vocabulary)
    kinds = gguf.TokenType
    writer.add_token_types([kinds.CONTROL if text in BERT_SPECIAL else kinds.NORMAL for text in vocabulary])
    writer.add_token_type_count(2)
    for add, text in (
        (writer.add_pad_token_id, "[PAD]"),
        (writer.add_unk_token_id, "[UNK]"),
        (writer.add_bos_token_id, "[CLS]"),
        (writer.add_eos_token_id, "[SEP]"),
        (writer.add_sep_token_id, "[SEP]"),
        (writer.add_mask_token_id, "[MASK]"),
    ):
        add(BERT_SPECIAL.index(text))
    return len(vocabulary)


def _llama_tensors(random: np.random.Generator, *, tokens: int, dimension: int) -> dict[str, Matrix]:
    wide = dimension * FEED_FORWARD_FACTOR
    embeddings = _matrix(random, tokens, dimension, dimension**0.5)
    tensors = {"token_embd.weight": embeddings, "output_norm.weight": _ones(dimension)}
    tensors["output.weight"] = _matrix(random, tokens, dimension)
    for block in range(BLOCKS):
        tensors |= {
            f"blk.{block}.attn_norm.weight": _ones(dimension),
            f"blk.{block}.attn_q.weight": _matrix(random, dimension, dimension),
            f"blk.{block}.attn_k.weight": _matrix(random, dimension, dimension),
            f"blk.{block}.attn_v.weight": _matrix(random, dimension, dimension),
            f"blk.{block}.attn_output.weight": _matrix(random, dimension, dimension, WEAK),
            f"blk.{block}.ffn_norm.weight": _ones(dimension),
            f"blk.{block}.ffn_gate.weight": _matrix(random, wide, dimension),
            f"blk.{block}.ffn_up.weight": _matrix(random, wide, dimension),
            f"blk.{block}.ffn_down.weight": _matrix(random, dimension, wide, WEAK),
        }
    return tensors


def _bert_tensors(
    random: np.random.Generator, *, tokens: int, dimension: int, context_length: int
) -> dict[str, Matrix]:
    wide = dimension * FEED_FORWARD_FACTOR
    tensors = {
        "token_embd.weight": _matrix(random, tokens, dimension, dimension**0.5),
        "position_embd.weight": _matrix(random, context_length, dimension, WEAK),
        "token_types.weight": _matrix(random, 2, dimension, WEAK),
        "token_embd_norm.weight": _ones(dimension),
        "token_embd_norm.bias": _zeros(dimension),
    }
    for block in range(BLOCKS):
        layers = {
            "attn_q": _matrix(random, dimension, dimension),
            "attn_k": _matrix(random, dimension, dimension),
            "attn_v": _matrix(random, dimension, dimension),
            "attn_output": _matrix(random, dimension, dimension, WEAK),
            "attn_output_norm": _ones(dimension),
            "ffn_up": _matrix(random, wide, dimension),
            "ffn_down": _matrix(random, dimension, wide, WEAK),
            "layer_output_norm": _ones(dimension),
        }
        for layer, weight in layers.items():
            tensors[f"blk.{block}.{layer}.weight"] = weight
            tensors[f"blk.{block}.{layer}.bias"] = _zeros(weight.shape[0])
    return tensors


def _matrix(random: np.random.Generator, rows: int, columns: int, scale: float = 1.0) -> Matrix:
    factor = np.float32(scale / columns**0.5)
    return random.standard_normal((rows, columns), dtype=np.float32) * factor


def _ones(count: int) -> Matrix:
    return np.ones(count, dtype=np.float32)


def _zeros(count: int) -> Matrix:
    return np.zeros(count, dtype=np.float32)


def _tensors(writer: gguf.GGUFWriter, tensors: dict[str, Matrix]) -> None:
    for name, tensor in tensors.items():
        writer.add_tensor(name, tensor)
    try:
        writer.write_header_to_file()
        writer.write_kv_data_to_file()
        writer.write_tensors_to_file()
    finally:
        writer.close()
