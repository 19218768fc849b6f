"""Read the header of a GGUF file with nothing but `struct`, and refuse what would crash the engine.

llama.cpp aborts the process on some values and loads some damaged files without a word; every length, count,
type and offset is therefore checked here first. The file is read, not mapped: a mapped file that shrinks
meanwhile, or a failing disk, would kill the runner with SIGBUS instead of raising.
"""

from __future__ import annotations

import errno
import os
import stat
import struct
from typing import TYPE_CHECKING

from sam_migrate.domain.engine import GgufFacts
from sam_migrate.errors import BadFileError, WaitingError

if TYPE_CHECKING:
    from pathlib import Path

    Scalar = int | float | bool | str
    Metadata = dict[str, Scalar | None]

MAGIC = b"GGUF"
VERSIONS = (2, 3)
KEYS_MAX = 1 << 16
TENSORS_MAX = 1 << 20
KEY_BYTES_MAX = (1 << 16) - 1
STRING_BYTES_MAX = 1 << 26
ELEMENTS_MAX = 1 << 26
TENSOR_NAME_BYTES_MAX = 63
DIMENSIONS_MAX = 4
ALIGNMENT_DEFAULT = 32
ALIGNMENT_MAX = 1 << 20
HEADER_BYTES_FIRST = 1 << 24
HEADER_BYTES_MAX = 1 << 30

U32 = struct.Struct("<I")
U64 = struct.Struct("<Q")
STRING, ARRAY = 8, 9
FIXED = {
    number: struct.Struct(f"<{letter}")
    for number, letter in zip((0, 1, 2, 3, 4, 5, 6, 7, 10, 11, 12), "BbHhIif?Qqd", strict=True)
}

# ggml type: (weights in a block, bytes of a block). Types that ggml removed are missing on purpose.
BLOCKS = {
    0: (1, 4), 1: (1, 2), 2: (32, 18), 3: (32, 20), 6: (32, 22), 7: (32, 24), 8: (32, 34), 9: (32, 40),
    10: (256, 84), 11: (256, 110), 12: (256, 144), 13: (256, 176), 14: (256, 210), 15: (256, 292),
    16: (256, 66), 17: (256, 74), 18: (256, 98), 19: (256, 50), 20: (32, 18), 21: (256, 110), 22: (256, 82),
    23: (256, 136), 24: (1, 1), 25: (1, 2), 26: (1, 4), 27: (1, 8), 28: (1, 8), 29: (256, 56), 30: (1, 2),
    34: (256, 54), 35: (256, 66), 39: (32, 17), 40: (64, 36), 41: (128, 18), 42: (64, 18),
}  # fmt: skip

# Hyper-parameters outside of these make llama.cpp abort instead of refusing (512 layers, 1024 experts are its limits).
RANGES = {
    "block_count": (1, 512),
    "context_length": (1, 1 << 28),
    "embedding_length": (1, 1 << 20),
    "embedding_length_out": (1, 1 << 20),
    "feed_forward_length": (0, 1 << 24),
    "attention.head_count": (0, 1 << 14),
    "attention.head_count_kv": (0, 1 << 14),
    "attention.key_length": (1, 1 << 16),
    "attention.value_length": (1, 1 << 16),
    "rope.dimension_count": (0, 1 << 16),
    "expert_count": (0, 1024),
    "expert_used_count": (0, 1024),
    "vocab_size": (1, 1 << 26),
}
REQUIRED = ("block_count", "context_length", "embedding_length")
HUB_PREFIXES = ("https://huggingface.co/", "https://hf.co/")
BASES_MAX = 64
HINT = "Download the file again, or choose another one."


def read_header(path: Path) -> GgufFacts:
    """Return what the header says of the model; raise BadFileError naming the file, what is wrong and where."""
    try:
        # O_NONBLOCK: opening a FIFO must not wait for its writer.
        descriptor = os.open(path, os.O_RDONLY | os.O_NONBLOCK | os.O_CLOEXEC)
        try:
            facts = os.fstat(descriptor)
            if not stat.S_ISREG(facts.st_mode):
                raise _bad(path, "is not a regular file")
            return _read(path, descriptor, facts.st_size)
        finally:
            os.close(descriptor)
    except OSError as error:
        raise _translated(path, error) from error


def _read(path: Path, descriptor: int, size: int) -> GgufFacts:
    wanted = HEADER_BYTES_FIRST
    while True:
        data = _bytes(descriptor, min(wanted, size))
        if len(data) < min(wanted, size):
            raise _bad(path, f"shrank to {len(data)} bytes while it was read")
        try:
            return _Header(path, data, size).facts()
        except _ShortError:
            if wanted >= HEADER_BYTES_MAX:
                raise _bad(path, f"has a header of more than {HEADER_BYTES_MAX} bytes") from None
            wanted *= 4


def _bytes(descriptor: int, count: int) -> bytes:
    parts: list[bytes] = []
    done = 0
    while done < count:
        part = os.pread(descriptor, count - done, done)
        if not part:
            break
        parts.append(part)
        done += len(part)
    return b"".join(parts)


class _ShortError(Exception):
    """More of the file is needed to go on."""


class _Header:
    """A walk through the header's bytes, from front to back."""

    def __init__(self, path: Path, data: bytes, size: int) -> None:
        self._path = path
        self._data = data
        self._size = size
        self._at = 0

    def facts(self) -> GgufFacts:
        tensors, keys = self._counts()
        metadata = self._metadata(keys)
        self._tensors(tensors, _alignment(self._path, metadata))
        return _facts(self._path, metadata, size=self._size, tensors=tensors)

    def _counts(self) -> tuple[int, int]:
        if self._size == 0:
            raise self._bad("is empty")
        if self._data[:4] != MAGIC:
            raise self._bad(f"is not a GGUF file: it begins with {self._data[:4]!r}")
        self._at = 4
        version = self._u32("the version")
        if version not in VERSIONS:
            other = " (written for the other byte order)" if version & 0xFFFF == 0 else ""
            raise self._bad(f"has GGUF version {version}{other}; versions 2 and 3 are supported")
        tensors = self._limited(self._u64("the number of tensors"), TENSORS_MAX, "tensors")
        keys = self._limited(self._u64("the number of keys"), KEYS_MAX, "keys")
        return tensors, keys

    def _metadata(self, count: int) -> Metadata:
        metadata: Metadata = {}
        for _ in range(count):
            start = self._at
            key = self._text(KEY_BYTES_MAX, "a key")
            if not key or key in metadata:
                raise self._bad(f"has the key {key!r} empty or twice", start)
            metadata[key] = self._value(key)
        return metadata

    def _value(self, key: str) -> Scalar | None:
        start = self._at
        kind = self._u32(f"the type of {key}")
        if kind == STRING:
            return self._text(STRING_BYTES_MAX, key)
        if kind == ARRAY:
            self._skip_array(key)
            return None
        if kind not in FIXED:
            raise self._bad(f"gives {key} the unknown type {kind}", start)
        layout = FIXED[kind]
        value: Scalar = layout.unpack_from(self._data, self._step(layout.size, key))[0]
        return value

    def _skip_array(self, key: str) -> None:
        start = self._at
        kind = self._u32(f"the element type of {key}")
        count = self._limited(self._u64(f"the length of {key}"), ELEMENTS_MAX, f"elements in {key}")
        if kind == STRING:
            self._skip_strings(key, count)
        elif kind in FIXED:
            self._step(count * FIXED[kind].size, key)
        else:
            raise self._bad(f"has an array {key} of the unsupported type {kind}", start)

    def _skip_strings(self, key: str, count: int) -> None:
        # A quarter of a million strings is usual here, so the loop holds nothing but the step itself.
        data, at, length = self._data, self._at, U64.unpack_from
        try:
            for _ in range(count):
                at += 8 + length(data, at)[0]
        except (struct.error, OverflowError):
            self._require(at + 8, key)
        self._require(at, key)
        self._at = at

    def _tensors(self, count: int, alignment: int) -> None:
        names: set[str] = set()
        end, last = 0, ""
        for _ in range(count):
            start = self._at
            name = self._text(TENSOR_NAME_BYTES_MAX, "a tensor's name")
            if name in names:
                raise self._bad(f"has the tensor {name!r} twice", start)
            names.add(name)
            offset, size = self._tensor(name)
            if offset % alignment:
                raise self._bad(f"has the tensor {name!r} at {offset}, which is not aligned to {alignment}", start)
            if offset + size > end:
                end, last = offset + size, name
        if not count:
            return
        begin = -(-self._at // alignment) * alignment
        if begin + end > self._size:
            reason = f"is truncated: {last!r} ends at byte {begin + end}, the file at {self._size}"
            raise self._bad(reason, self._size)

    def _tensor(self, name: str) -> tuple[int, int]:
        start = self._at
        rank = self._u32(f"the rank of {name}")
        if rank > DIMENSIONS_MAX:
            raise self._bad(f"has the tensor {name!r} with {rank} dimensions", start)
        shape = [self._u64(f"the shape of {name}") for _ in range(rank)]
        kind = self._u32(f"the type of {name}")
        offset = self._u64(f"the offset of {name}")
        if kind not in BLOCKS:
            raise self._bad(f"has the tensor {name!r} of the unknown type {kind}", start)
        weights, block_bytes = BLOCKS[kind]
        elements = 1
        for length in shape:
            elements *= length
        if not elements or (shape and shape[0] % weights):
            raise self._bad(f"has the tensor {name!r} of the impossible shape {shape}", start)
        return offset, elements // weights * block_bytes

    def _u32(self, what: str) -> int:
        value: int = U32.unpack_from(self._data, self._step(4, what))[0]
        return value

    def _u64(self, what: str) -> int:
        value: int = U64.unpack_from(self._data, self._step(8, what))[0]
        return value

    def _text(self, limit: int, what: str) -> str:
        start = self._at
        length = self._limited(self._u64(f"the length of {what}"), limit, f"bytes in {what}")
        begin = self._step(length, what)
        try:
            return self._data[begin : begin + length].decode()
        except UnicodeDecodeError:
            raise self._bad(f"has {what} that is not UTF-8", start) from None

    def _limited(self, value: int, limit: int, what: str) -> int:
        if value > limit:
            raise self._bad(f"claims {value} {what}; at most {limit} are possible", self._at - 8)
        return value

    def _step(self, count: int, what: str) -> int:
        at = self._at
        self._require(at + count, what)
        self._at = at + count
        return at

    def _require(self, end: int, what: str) -> None:
        if end <= len(self._data):
            return
        if end > self._size:
            raise self._bad(f"is truncated: {what} would end at byte {end}, the file has {self._size}")
        raise _ShortError

    def _bad(self, reason: str, offset: int | None = None) -> BadFileError:
        return _bad(self._path, f"{reason} (at byte {self._at if offset is None else offset})")


def _alignment(path: Path, metadata: Metadata) -> int:
    value = metadata.get("general.alignment", ALIGNMENT_DEFAULT)
    if type(value) is not int or not 0 < value <= ALIGNMENT_MAX or value & (value - 1):
        raise _bad(path, f"has general.alignment {value!r}, which is not a power of two")
    return value


def _facts(path: Path, metadata: Metadata, *, size: int, tensors: int) -> GgufFacts:
    architecture = metadata.get("general.architecture")
    if not isinstance(architecture, str) or not architecture:
        raise _bad(path, "names no general.architecture")
    kind = _text_of(metadata, "general.type") or "model"
    numbers = {name: _number(path, metadata, f"{architecture}.{name}", *limits) for name, limits in RANGES.items()}
    if kind == "model":
        _check_model(path, metadata, numbers, architecture=architecture, tensors=tensors)
    return GgufFacts(
        architecture=architecture,
        name=_text_of(metadata, "general.name") or "",
        size_bytes=size,
        context_length=numbers["context_length"] or 0,
        embedding_length=numbers["embedding_length"] or 0,
        block_count=numbers["block_count"] or 0,
        tensor_count=tensors,
        chat_template=_text_of(metadata, "tokenizer.chat_template")
        or _text_of(metadata, "tokenizer.chat_template.default"),
        base_repositories=_bases(metadata),
        kind=kind,
    )


def _check_model(
    path: Path, metadata: Metadata, numbers: dict[str, int | None], *, architecture: str, tensors: int
) -> None:
    for name in REQUIRED:
        if numbers[name] is None:
            raise _bad(path, f"has no {architecture}.{name}")
    parts = _number(path, metadata, "split.count", 0, 1 << 16) or 0
    if parts > 1:
        raise _bad(path, f"is one of {parts} parts of a model", hint="Choose a model that is one file.")
    if not tensors:
        raise _bad(path, "holds no tensors")
    if (numbers["expert_used_count"] or 0) > (numbers["expert_count"] or 0):
        raise _bad(path, f"has {architecture}.expert_used_count above its expert_count")


def _number(path: Path, metadata: Metadata, key: str, low: int, high: int) -> int | None:
    # Some architectures give a value per layer; those arrays are None here, and llama.cpp checks them itself.
    value = metadata.get(key)
    if value is None:
        return None
    if type(value) is not int or not low <= value <= high:
        raise _bad(path, f"has {key} {value!r}; {low} to {high} is possible")
    return value


def _bases(metadata: Metadata) -> tuple[str, ...]:
    count = metadata.get("general.base_model.count")
    if type(count) is not int:
        return ()
    urls = (_text_of(metadata, f"general.base_model.{index}.repo_url") for index in range(min(count, BASES_MAX)))
    found = (_repository(url) for url in urls if url)
    return tuple(dict.fromkeys(repository for repository in found if repository))


def _repository(url: str) -> str | None:
    for prefix in HUB_PREFIXES:
        if url.startswith(prefix):
            owner, _, rest = url.removeprefix(prefix).partition("/")
            name = rest.partition("/")[0]
            return f"{owner}/{name}" if owner and name else None
    return None


def _text_of(metadata: Metadata, key: str) -> str | None:
    value = metadata.get(key)
    return value if isinstance(value, str) else None


def _translated(path: Path, error: OSError) -> BadFileError | WaitingError:
    if error.errno in (errno.EMFILE, errno.ENFILE):
        return WaitingError("descriptors", f"{path}: no file descriptor is free")
    if error.errno in (errno.EIO, errno.ESTALE, errno.ENODEV, errno.ETIMEDOUT):
        return WaitingError("io", f"{path}: cannot be read: {error.strerror}", hint="Check the disk.")
    if isinstance(error, FileNotFoundError | NotADirectoryError):
        return _bad(path, "is not there")
    return _bad(path, f"cannot be read: {error.strerror}")


def _bad(path: Path, reason: str, *, hint: str = HINT) -> BadFileError:
    return BadFileError(str(path), reason, hint=hint)
