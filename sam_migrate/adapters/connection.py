"""One HTTP connection for one request whose every wait is cut into slices, so that a request to stop is heard.

Knows http.client and TLS; nothing of the Hub.
"""

from __future__ import annotations

import errno
import http.client
import io
import ssl
import threading
import urllib.request
from base64 import b64encode
from functools import cache
from pathlib import Path
from typing import TYPE_CHECKING, Final, Generic, TypeVar
from urllib.parse import SplitResult, unquote, urlsplit

from sam_migrate.adapters.durable import translate

if TYPE_CHECKING:
    import socket
    from collections.abc import Callable, Mapping

    from _typeshed import WriteableBuffer

    from sam_migrate.ports import Clock, Heed

SLICE_SECONDS: Final = 0.1
HEADER_BUFFER_BYTES: Final = 64 * 1024

_T = TypeVar("_T")
_OWN_FAULTS: Final = frozenset({errno.EMFILE, errno.ENFILE})
# Where macOS keeps the authorities, whatever its Python was built to look for.
_AUTHORITIES: Final = Path("/etc/ssl/cert.pem")


class TransientError(Exception):
    """The request did not work this time; another one may, not before `retry_after_seconds` where that is known."""

    def __init__(self, reason: str, *, retry_after_seconds: float | None = None) -> None:
        """Keep the reason, a part of a sentence."""
        super().__init__(reason)
        self.reason = reason
        self.retry_after_seconds = retry_after_seconds


class Background(threading.Thread, Generic[_T]):
    """A call in a thread of its own that nobody needs to outlive; for what the kernel offers no timeout for."""

    def __init__(self, call: Callable[[], _T]) -> None:
        """Start the call."""
        super().__init__(daemon=True)
        self._call = call
        self._results: list[_T] = []
        self._error: Exception | None = None
        self.start()

    def run(self) -> None:
        """Make the call and keep what came of it."""
        try:
            self._results.append(self._call())
        except Exception as error:  # noqa: BLE001 - handed over to whoever asks for the result
            self._error = error

    def finished(self, *, timeout_seconds: float) -> bool:
        """Wait that long at most; tell whether the call is over."""
        self.join(timeout_seconds)
        return not self.is_alive()

    def result(self) -> _T:
        """Return what the call returned, or raise what it raised."""
        if self._error is not None:
            raise self._error
        return self._results[0]


class Connection:
    """One connection for one request; whatever blocks looks up every slice to heed."""

    def __init__(self, parts: SplitResult, *, heed: Heed, clock: Clock, stall_seconds: float) -> None:
        """Prepare it; `stall_seconds` bounds every silence."""
        self._heed = heed
        self._clock = clock
        self._stall_seconds = stall_seconds
        self._closed = threading.Event()
        self._socket: socket.socket | None = None
        self._http = _client(parts, timeout_seconds=stall_seconds)

    def get(self, target: str, headers: Mapping[str, str]) -> http.client.HTTPResponse:
        """Connect, ask, and read the answer's headers; raise TransientError, or whatever `heed` raises."""
        self._connect()
        if self._socket is None:
            raise TransientError("the connection was closed")
        self._socket.settimeout(SLICE_SECONDS)
        stream = _Stream(_HeedfulReader(self._socket, self._heed, self._clock, self._stall_seconds))
        self._http.sock = _HeedfulSocket(self._socket, stream)
        try:
            self._http.request("GET", target, headers=headers)
            return self._http.getresponse()
        except (http.client.HTTPException, OSError, ValueError) as error:
            # The error's text may quote a header; its kind says enough.
            raise TransientError(f"the server's answer failed ({type(error).__name__})") from None

    def close(self) -> None:
        """Close it, whatever it is doing."""
        self._closed.set()
        if self._socket is not None:
            self._socket.close()

    def _connect(self) -> None:
        """Look the name up, connect and shake hands, in a thread: the first of them cannot be interrupted."""
        attempt = Background(self._open)
        began = self._clock.monotonic()
        while not attempt.finished(timeout_seconds=SLICE_SECONDS):
            self._heed()
            if self._clock.monotonic() - began > self._stall_seconds:
                raise TransientError("no connection in time")
        try:
            attempt.result()
        except OSError as error:
            if error.errno in _OWN_FAULTS:
                with translate("a connection to the Hub"):
                    raise
            raise TransientError(f"no connection: {error.strerror or type(error).__name__}") from error
        except (http.client.HTTPException, ValueError) as error:
            raise TransientError(f"no connection ({type(error).__name__})") from error

    def _open(self) -> None:
        try:
            self._http.connect()
        except BaseException:
            self._http.close()
            raise
        self._socket = self._http.sock
        if self._closed.is_set() and self._socket is not None:
            # Nobody waits any more.
            self._socket.close()


class _HeedfulReader(io.RawIOBase):
    """A socket's bytes, waited for in slices; unlike socket.makefile it can be read again after a timeout."""

    def __init__(self, source: socket.socket, heed: Heed, clock: Clock, stall_seconds: float) -> None:
        self._source = source
        self._heed = heed
        self._clock = clock
        self._stall_seconds = stall_seconds
        self._heeded = clock.monotonic()

    def readable(self) -> bool:
        return True

    def readinto(self, buffer: WriteableBuffer) -> int:
        began = self._clock.monotonic()
        while True:
            count = self._received(buffer)
            now = self._clock.monotonic()
            if count is None or now - self._heeded >= SLICE_SECONDS:
                self._heed()
                self._heeded = now
            if count is not None:
                return count
            if now - began >= self._stall_seconds:
                raise TransientError(f"no byte came for {self._stall_seconds:g} s")

    def _received(self, buffer: WriteableBuffer) -> int | None:
        try:
            return self._source.recv_into(buffer)
        except (TimeoutError, ssl.SSLWantReadError):
            return None
        except OSError as error:
            raise TransientError(f"the connection broke: {error.strerror or type(error).__name__}") from error


class _Stream(io.BufferedReader):
    """Buffered for the headers; a big read returns what one receive brought, so that progress shows."""

    def __init__(self, raw: io.RawIOBase) -> None:
        super().__init__(raw, HEADER_BUFFER_BYTES)

    def readinto(self, buffer: WriteableBuffer) -> int:
        return self.readinto1(buffer)


class _HeedfulSocket:
    """What http.client asks of a socket; closing is left to the connection, the body is still to be read."""

    def __init__(self, target: socket.socket, stream: _Stream) -> None:
        self._target = target
        self._stream = stream

    def makefile(self, _mode: str) -> _Stream:
        return self._stream

    def sendall(self, content: bytes) -> None:
        self._target.sendall(content)

    def close(self) -> None:
        """Leave the socket open."""


def _client(parts: SplitResult, *, timeout_seconds: float) -> http.client.HTTPConnection:
    """Prepare the connection to the URL's host; HTTPS goes through the environment's proxy where there is one."""
    host, port = parts.hostname or "", parts.port
    if parts.scheme != "https":
        return http.client.HTTPConnection(host, port, timeout=timeout_seconds)
    proxy = urllib.request.getproxies().get("https")
    if not proxy or urllib.request.proxy_bypass(host):
        return http.client.HTTPSConnection(host, port, timeout=timeout_seconds, context=_tls())
    via = urlsplit(proxy if "://" in proxy else f"http://{proxy}")
    client = http.client.HTTPSConnection(via.hostname or "", via.port, timeout=timeout_seconds, context=_tls())
    login = f"{unquote(via.username)}:{unquote(via.password or '')}" if via.username else ""
    secret = {"Proxy-Authorization": f"Basic {b64encode(login.encode()).decode()}"} if login else {}
    client.set_tunnel(host, port, headers=secret)
    return client


@cache
def _tls() -> ssl.SSLContext:
    paths = ssl.get_default_verify_paths()
    known = paths.cafile or paths.capath or not _AUTHORITIES.exists()
    return ssl.create_default_context(cafile=None if known else str(_AUTHORITIES))
