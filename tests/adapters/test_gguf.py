"""Headers of GGUF files: whole ones are understood, damaged ones refused with a sentence, nothing else happens."""

from __future__ import annotations

import os
import struct
import time
from typing import TYPE_CHECKING

import gguf
import pytest

from sam_migrate.adapters.gguf import BLOCKS, read_header
from sam_migrate.demo.engines import write_bert, write_llama, write_lora
from sam_migrate.errors import BadFileError

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path

U32, U64, TEXT, ARRAY = 4, 10, 8, 9


def text(value: str) -> bytes:
    """Pack a string."""
    return struct.pack("<Q", len(value.encode())) + value.encode()


def key(name: str, kind: int, value: bytes) -> bytes:
    """Pack a key and its value."""
    return text(name) + struct.pack("<I", kind) + value


def number(name: str, value: int) -> bytes:
    """Pack a key and a 32-bit number."""
    return key(name, U32, struct.pack("<I", value))


def word(name: str, value: str) -> bytes:
    """Pack a key and a string."""
    return key(name, TEXT, text(value))


def tensor(name: str = "t", *, shape: tuple[int, ...] = (4,), kind: int = 0, offset: int = 0) -> bytes:
    """Pack the description of a tensor."""
    lengths = struct.pack(f"<I{len(shape)}Q", len(shape), *shape)
    return text(name) + lengths + struct.pack("<IQ", kind, offset)


def model(*more: bytes, blocks: int = 1, tensors: tuple[bytes, ...] = (), keys: int = 0) -> bytes:
    """Pack a whole little model; `more` keys come on top, `keys` falsifies their number."""
    basics = (
        word("general.architecture", "llama"),
        number("llama.block_count", blocks),
        number("llama.context_length", 512),
        number("llama.embedding_length", 8),
    )
    described = tensors or (tensor(),)
    count = keys or len(basics) + len(more)
    head = b"GGUF" + struct.pack("<IQQ", 3, len(described), count) + b"".join(basics + more + described)
    return head + bytes(-len(head) % 32 + 64)


@pytest.fixture(scope="module")
def tiny(tmp_path_factory: pytest.TempPathFactory) -> bytes:
    """Give the bytes of a real tiny engine."""
    return write_llama(tmp_path_factory.mktemp("tiny") / "tiny.gguf", seed=1, dimension=16).read_bytes()


def test_header_of_generator(tmp_path: Path) -> None:
    """The facts of a generator are those it was written with."""
    path = write_llama(tmp_path / "a.gguf", seed=1, dimension=32, context_length=256, base_repository="org/base")
    facts = read_header(path)
    assert (facts.architecture, facts.name, facts.kind) == ("llama", "tiny-llama", "model")
    assert (facts.context_length, facts.embedding_length, facts.block_count) == (256, 32, 1)
    assert facts.size_bytes == path.stat().st_size
    assert facts.base_repositories == ("org/base",)
    assert facts.chat_template is not None
    assert "im_start" in facts.chat_template


def test_header_without_template(tmp_path: Path) -> None:
    """A missing chat template is None, not an empty one."""
    assert read_header(write_bert(tmp_path / "a.gguf", seed=1, dimension=32)).chat_template is None


def test_header_of_adapter(tmp_path: Path) -> None:
    """A LoRA adapter is told from a model, and needs no hyper-parameters."""
    facts = read_header(write_lora(tmp_path / "a.gguf", seed=1, dimension=32))
    assert (facts.kind, facts.architecture, facts.block_count) == ("adapter", "llama", 0)


def test_named_default_template_counts(tmp_path: Path) -> None:
    """A template stored under the name `default` is the default one."""
    path = tmp_path / "a.gguf"
    path.write_bytes(model(word("tokenizer.chat_template.default", "hi")))
    assert read_header(path).chat_template == "hi"


@pytest.mark.parametrize(
    ("url", "repositories"),
    [
        ("https://huggingface.co/org/name", ("org/name",)),
        ("https://huggingface.co/org/name/tree/main", ("org/name",)),
        ("https://example.org/org/name", ()),
        ("https://huggingface.co/", ()),
    ],
)
def test_base_repository_comes_from_url(tmp_path: Path, url: str, repositories: tuple[str, ...]) -> None:
    """Only addresses on the Hub name a base repository."""
    path = tmp_path / "a.gguf"
    path.write_bytes(model(number("general.base_model.count", 1), word("general.base_model.0.repo_url", url)))
    assert read_header(path).base_repositories == repositories


def test_block_sizes_agree_with_gguf() -> None:
    """The table of tensor types is the one the `gguf` package has, and one newer type."""
    known = {int(kind): sizes for kind, sizes in gguf.GGML_QUANT_SIZES.items()}
    assert known.items() <= BLOCKS.items()
    assert BLOCKS.keys() - known.keys() <= {42}


DAMAGED = {
    "empty": (b"", "is empty"),
    "other format": (b"PK\x03\x04" + bytes(100), "not a GGUF file"),
    "magic only": (b"GGUF", "truncated"),
    "version 1": (b"GGUF" + struct.pack("<IQQ", 1, 1, 1), "GGUF version 1"),
    "version 4": (b"GGUF" + struct.pack("<IQQ", 4, 1, 1), "GGUF version 4"),
    "big endian": (b"GGUF" + struct.pack(">IQQ", 3, 1, 1), "other byte order"),
    "too many tensors": (b"GGUF" + struct.pack("<IQQ", 3, 1 << 60, 1), "tensors"),
    "too many keys": (b"GGUF" + struct.pack("<IQQ", 3, 1, 1 << 60), "keys"),
    "more keys than bytes": (model(keys=60000), "(at byte"),
    "huge string": (b"GGUF" + struct.pack("<IQQQ", 3, 1, 1, 1 << 63), "bytes in a key"),
    "string past the end": (model(key("x", TEXT, struct.pack("<Q", 1 << 20))), "truncated"),
    "not UTF-8": (model(key("x", TEXT, struct.pack("<Q", 1) + b"\xff")), "not UTF-8"),
    "empty key": (model(number("", 1)), "empty or twice"),
    "key twice": (model(number("x", 1), number("x", 1)), "empty or twice"),
    "unknown type": (model(key("x", 77, bytes(8))), "unknown type 77"),
    "array of arrays": (model(key("x", ARRAY, struct.pack("<IQ", ARRAY, 1))), "unsupported type 9"),
    "array of nothing": (model(key("x", ARRAY, struct.pack("<IQ", 99, 1))), "unsupported type 99"),
    "huge array": (model(key("x", ARRAY, struct.pack("<IQ", U64, 1 << 60))), "elements in x"),
    "array past the end": (model(key("x", ARRAY, struct.pack("<IQ", U64, 1 << 20))), "truncated"),
    "strings past the end": (model(key("x", ARRAY, struct.pack("<IQQ", TEXT, 2, 1 << 62))), "truncated"),
    "string sum overflows": (model(key("x", ARRAY, struct.pack("<IQQ", TEXT, 2, (1 << 64) - 1))), "truncated"),
    "no blocks": (model(blocks=0), "block_count 0"),
    "too many blocks": (model(blocks=100_000), "block_count 100000"),
    "blocks as text": (model(word("llama.expert_count", "2")), "expert_count '2'"),
    "more experts used": (model(number("llama.expert_used_count", 2)), "expert_used_count"),
    "odd alignment": (model(number("general.alignment", 24)), "general.alignment 24"),
    "alignment zero": (model(number("general.alignment", 0)), "general.alignment 0"),
    "one of many parts": (model(number("split.count", 3)), "one of 3 parts"),
    "rank 5": (model(tensors=(tensor(shape=(1, 1, 1, 1, 1)),)), "5 dimensions"),
    "no elements": (model(tensors=(tensor(shape=(4, 0)),)), "impossible shape"),
    "broken block": (model(tensors=(tensor(shape=(31,), kind=2),)), "impossible shape"),
    "removed type": (model(tensors=(tensor(kind=4),)), "unknown type 4"),
    "tensor twice": (model(tensors=(tensor(), tensor(offset=32))), "twice"),
    "long tensor name": (model(tensors=(tensor("t" * 64),)), "tensor's name"),
    "unaligned tensor": (model(tensors=(tensor(offset=4),)), "not aligned"),
    "tensor past the end": (model(tensors=(tensor(offset=1 << 40),)), "truncated"),
    "tensor too large": (model(tensors=(tensor(shape=(1 << 40, 1 << 20)),)), "truncated"),
}


@pytest.mark.parametrize("damage", DAMAGED)
def test_damaged_header_is_refused(tmp_path: Path, damage: str) -> None:
    """The refusal names the file and what is wrong with it."""
    content, expected = DAMAGED[damage]
    path = tmp_path / "damaged.gguf"
    path.write_bytes(content)
    with pytest.raises(BadFileError) as refusal:
        read_header(path)
    assert expected in str(refusal.value)
    assert refusal.value.path == str(path)


def test_undamaged_header_is_read(tmp_path: Path) -> None:
    """What the damages start from is whole."""
    path = tmp_path / "whole.gguf"
    path.write_bytes(model())
    assert read_header(path).tensor_count == 1


def test_every_truncation_is_refused(tmp_path: Path, tiny: bytes) -> None:
    """Wherever a file ends early, it is refused."""
    path = tmp_path / "cut.gguf"
    for length in [*range(300), *range(300, len(tiny), len(tiny) // 60), len(tiny) - 32]:
        path.write_bytes(tiny[:length])
        with pytest.raises(BadFileError):
            read_header(path)


@pytest.mark.parametrize("mask", [0x01, 0x80, 0xFF])
def test_flipped_byte_never_surprises(tmp_path: Path, tiny: bytes, mask: int) -> None:
    """A flipped byte in the header gives facts or a refusal, no other exception."""
    path = tmp_path / "flipped.gguf"
    refused = 0
    for at in range(300):
        path.write_bytes(tiny[:at] + bytes([tiny[at] ^ mask]) + tiny[at + 1 :])
        refused += _is_refused(path)
    assert 20 < refused < 300


def _is_refused(path: Path) -> bool:
    try:
        read_header(path)
    except BadFileError:
        return True
    return False


def test_missing_file_is_refused(tmp_path: Path) -> None:
    """A file that is not there is refused by name."""
    with pytest.raises(BadFileError, match="is not there"):
        read_header(tmp_path / "none.gguf")


@pytest.mark.parametrize("make", [os.mkdir, os.mkfifo])
def test_what_is_no_file_is_refused(tmp_path: Path, make: Callable[[Path], None]) -> None:
    """A directory is refused, and a FIFO does not make the reader wait for a writer."""
    make(tmp_path / "odd.gguf")
    with pytest.raises(BadFileError, match="is not a regular file"):
        read_header(tmp_path / "odd.gguf")


def test_header_of_large_file_is_quick(tmp_path: Path) -> None:
    """A model of 250 MB with a vocabulary of 150,000 is read in processor time that a person does not notice."""
    strings = b"".join(text(f"token{index}") for index in range(150_000))
    vocabulary = key("tokenizer.ggml.tokens", ARRAY, struct.pack("<IQ", TEXT, 150_000) + strings)
    path = tmp_path / "large.gguf"
    path.write_bytes(model(vocabulary, tensors=(tensor(shape=(1 << 16, 1000)),)))
    os.truncate(path, 1 << 28)
    begun = time.process_time()
    facts = read_header(path)
    assert time.process_time() - begun < 0.5
    assert facts.size_bytes == 1 << 28


def test_header_longer_than_first_read(tmp_path: Path) -> None:
    """A header that does not fit into the first read is read on."""
    path = tmp_path / "long.gguf"
    numbers = struct.pack("<IQ", 0, 20 << 20) + bytes(20 << 20)
    path.write_bytes(model(key("x", ARRAY, numbers), word("general.name", "behind")))
    assert read_header(path).name == "behind"
