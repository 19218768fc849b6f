"""Messages between the engine's child and its parent: a JSON header and raw bytes, each with its length in front."""

from __future__ import annotations

import json
import struct
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping

LENGTHS = struct.Struct(">II")
HEADER_BYTES_MAX = 1 << 28
PAYLOAD_BYTES_MAX = 1 << 30
READ_BYTES = 1 << 20


def pack(header: Mapping[str, Any], payload: bytes = b"") -> bytes:
    """Return the frame as it goes over the pipe."""
    text = json.dumps(header).encode()
    return LENGTHS.pack(len(text), len(payload)) + text + payload


class Frames:
    """Bytes in, whole frames out."""

    def __init__(self) -> None:
        """Begin with nothing."""
        self._buffer = bytearray()

    def feed(self, data: bytes) -> Iterator[tuple[dict[str, Any], bytes]]:
        """Take the bytes and yield every frame they complete; raise ValueError for what no frame can be."""
        self._buffer += data
        while len(self._buffer) >= LENGTHS.size:
            header_bytes, payload_bytes = LENGTHS.unpack_from(self._buffer)
            if header_bytes > HEADER_BYTES_MAX or payload_bytes > PAYLOAD_BYTES_MAX:
                raise ValueError(f"a frame of {header_bytes} and {payload_bytes} bytes")
            begin = LENGTHS.size + header_bytes
            end = begin + payload_bytes
            if len(self._buffer) < end:
                return
            header = json.loads(self._buffer[LENGTHS.size : begin])
            payload = bytes(self._buffer[begin:end])
            del self._buffer[:end]
            yield header, payload
