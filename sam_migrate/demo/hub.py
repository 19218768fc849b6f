"""A Hub on this machine, for the demo and the tests: the protocol of huggingface.co on loopback, with faults at will.

Two origins, as in the real one: the Hub itself, and the storage its signed, expiring URLs lead to.
"""

from __future__ import annotations

import hashlib
import hmac
import json
import os
import re
import threading
import time
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import TYPE_CHECKING, Any, Final
from urllib.parse import parse_qs, quote, unquote, urlsplit

if TYPE_CHECKING:
    from collections.abc import Collection, Mapping
    from pathlib import Path
    from typing import Self

BLOCK_BYTES: Final = 1 << 20
PACES_PER_SECOND: Final = 20
_SECRET: Final = b"signs the URLs of a demo"
_API: Final = re.compile(r"/api/models/(?P<rest>.+)")
_RESOLVE: Final = re.compile(r"/(?P<repository>[^/]+(?:/[^/]+)?)/resolve/(?P<revision>[^/]+)/(?P<filename>.+)")
_RANGE: Final = re.compile(r"bytes=(\d+)-(\d*)")


@dataclass(slots=True, kw_only=True)
class Asked:
    """A request as it came; `sent` counts the bytes of the body that were given to the network."""

    origin: str
    method: str
    path: str
    range: str | None
    if_range: str | None
    authorized: bool
    status: int = 0
    sent: int = 0


@dataclass(slots=True, kw_only=True)
class Faults:
    """What goes wrong from now on; a list is consumed one entry a request, everything else stays until changed."""

    api_statuses: list[int] = field(default_factory=list)
    resolve_statuses: list[int] = field(default_factory=list)
    storage_statuses: list[int] = field(default_factory=list)
    retry_after: str | None = None
    error_code: str | None = None
    drop_after: list[int] = field(default_factory=list)
    stall_after: int | None = None
    expired_urls: int = 0
    ignore_range: bool = False
    shift_range: int = 0
    announced_total: int | None = None
    announced_sha256: dict[str, str] = field(default_factory=dict)
    without_sha256: bool = False
    corrupt: bool = False
    location: str | None = None


class LoopbackHub:
    """Serves `{repository: {filename: path}}` while the block lasts; `bytes_per_second` may be changed at any time."""

    def __init__(
        self,
        repositories: Mapping[str, Mapping[str, Path]],
        *,
        gated: Collection[str] = (),
        tokens: Collection[str] = (),
        bytes_per_second: float | None = None,
        url_seconds: float = 3600.0,
    ) -> None:
        """Keep what is served; `gated` repositories are for holders of one of the `tokens`."""
        self.repositories = {name: dict(files) for name, files in repositories.items()}
        self.gated = frozenset(gated)
        self.tokens = frozenset(tokens)
        self.bytes_per_second = bytes_per_second
        self.url_seconds = url_seconds
        self.faults = Faults()
        self.log: list[Asked] = []
        self.closing = threading.Event()
        self._digests: dict[tuple[Path, int, int], str] = {}
        self._servers: list[_Server] = []

    def __enter__(self) -> Self:
        """Begin to serve on two free ports."""
        for handler in (_HubHandler, _StorageHandler):
            server = _Server(self, handler)
            self._servers.append(server)
            threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.02}, daemon=True).start()
        return self

    def __exit__(self, *_: object) -> None:
        """Stop serving; whoever waits for a stalled answer is let go."""
        self.closing.set()
        for server in self._servers:
            server.shutdown()
            server.server_close()

    @property
    def endpoint(self) -> str:
        """Return what to set HF_ENDPOINT to."""
        return self._servers[0].url

    @property
    def storage(self) -> str:
        """Return the origin the signed URLs lead to."""
        return self._servers[1].url

    def commit(self, repository: str) -> str:
        """Return the repository's only commit."""
        return hashlib.sha1(repository.encode(), usedforsecurity=False).hexdigest()

    def sha256(self, path: Path) -> str:
        """Return the digest of a served file, computed once for each content."""
        facts = path.stat()
        key = path, facts.st_size, facts.st_mtime_ns
        if key not in self._digests:
            with path.open("rb") as file:
                self._digests[key] = hashlib.file_digest(file, "sha256").hexdigest()
        return self._digests[key]

    def announced(self, filename: str, path: Path) -> str:
        """Return the digest the metadata tell."""
        return self.faults.announced_sha256.get(filename) or self.sha256(path)

    def signed(self, repository: str, filename: str) -> str:
        """Return a URL of the storage that works for `url_seconds`."""
        seconds = self.url_seconds
        if self.faults.expired_urls:
            self.faults.expired_urls -= 1
            seconds = -1.0
        target = f"/{repository}/{quote(filename)}"
        expires = f"{time.time() + seconds:.3f}"
        return f"{self.storage}{target}?expires={expires}&signature={_signature(target, expires)}"

    def bodies(self) -> list[Asked]:
        """Return the requests that were answered with bytes of a file."""
        return [asked for asked in self.log if asked.sent]


def _signature(target: str, expires: str) -> str:
    return hmac.new(_SECRET, f"{target} {expires}".encode(), hashlib.sha256).hexdigest()


class _Server(ThreadingHTTPServer):
    daemon_threads = True
    block_on_close = False

    def __init__(self, hub: LoopbackHub, handler: type[BaseHTTPRequestHandler]) -> None:
        super().__init__(("127.0.0.1", 0), handler)
        self.hub = hub
        self.url = f"http://127.0.0.1:{self.server_address[1]}"

    def handle_error(self, request: object, client_address: object) -> None:
        """Say nothing: clients of a test hang up whenever they like."""


class _Handler(BaseHTTPRequestHandler):
    server: _Server
    protocol_version = "HTTP/1.1"
    timeout = 60
    origin = ""

    def log_message(self, format: str, *args: object) -> None:  # noqa: A002 - the parent's name
        """Keep stderr for what matters."""

    def _ask(self) -> None:
        self.asked = Asked(
            origin=self.origin,
            method=self.command,
            path=self.path,
            range=self.headers.get("Range"),
            if_range=self.headers.get("If-Range"),
            authorized="Authorization" in self.headers,
        )
        self.server.hub.log.append(self.asked)
        length = int(self.headers.get("Content-Length") or 0)
        self.form = parse_qs(self.rfile.read(length).decode())
        parts = urlsplit(self.path)
        self._answer(unquote(parts.path), parse_qs(parts.query))

    do_GET = do_HEAD = do_POST = _ask  # noqa: N815 - the names http.server calls

    def _answer(self, path: str, query: dict[str, list[str]]) -> None:
        raise NotImplementedError

    def _head(self, status: int, headers: Mapping[str, str | int]) -> None:
        self.asked.status = status
        self.send_response(status)
        for name, value in headers.items():
            self.send_header(name, str(value))
        self.end_headers()

    def _refuse(self, status: int, code: str | None = None) -> None:
        faults = self.server.hub.faults
        headers: dict[str, str | int] = {"Content-Length": 0}
        if code or faults.error_code:
            headers["X-Error-Code"] = code or faults.error_code or ""
        if faults.retry_after is not None:
            headers["Retry-After"] = faults.retry_after
        self._head(status, headers)

    def _failed(self, statuses: list[int]) -> bool:
        if not statuses:
            return False
        self._refuse(statuses.pop(0))
        return True

    def _json(self, content: object) -> None:
        body = json.dumps(content).encode()
        self._head(200, {"Content-Type": "application/json", "Content-Length": len(body)})
        if self.command != "HEAD":
            self.wfile.write(body)


class _HubHandler(_Handler):
    """Metadata, permissions, and redirects to the storage."""

    origin = "hub"

    def _answer(self, path: str, query: dict[str, list[str]]) -> None:
        faults = self.server.hub.faults
        if api := _API.fullmatch(path):
            if not self._failed(faults.api_statuses):
                self._api(api["rest"], query)
        elif resolve := _RESOLVE.fullmatch(path):
            if not self._failed(faults.resolve_statuses):
                self._resolve(**resolve.groupdict())
        else:
            self._refuse(404)

    def _admitted(self, repository: str, revision: str) -> bool:
        """Check name, revision and permission in the order and with the answers of the real Hub."""
        hub = self.server.hub
        if repository not in hub.repositories:
            # The real one does not tell strangers which names exist.
            self._refuse(404 if self._known() else 401, "RepoNotFound")
        elif revision not in ("main", hub.commit(repository)):
            self._refuse(404, "RevisionNotFound")
        elif repository in hub.gated and not self._known():
            self._refuse(403 if self.asked.authorized else 401, "GatedRepo")
        else:
            return True
        return False

    def _known(self) -> bool:
        return self.headers.get("Authorization", "").removeprefix("Bearer ") in self.server.hub.tokens

    def _api(self, rest: str, query: dict[str, list[str]]) -> None:
        repository, _, revision = rest.partition("/revision/")
        asked_paths = "/paths-info/" in rest
        if asked_paths:
            repository, _, revision = rest.partition("/paths-info/")
        if not self._admitted(repository, revision or "main"):
            return
        files = self.server.hub.repositories[repository]
        if asked_paths:
            wanted = self.form.get("paths", [])
            self._json([self._entry(name, files[name]) for name in wanted if name in files])
            return
        with_blobs = query.get("blobs", ["false"])[0].lower() == "true"
        self._json(
            {
                "id": repository,
                "modelId": repository,
                "sha": self.server.hub.commit(repository),
                "private": False,
                "gated": "auto" if repository in self.server.hub.gated else False,
                "tags": [],
                "siblings": [self._sibling(name, path, with_blobs=with_blobs) for name, path in files.items()],
            }
        )

    def _sibling(self, filename: str, path: Path, *, with_blobs: bool) -> dict[str, Any]:
        entry: dict[str, Any] = {"rfilename": filename}
        if with_blobs:
            size = path.stat().st_size
            entry |= {"size": size, "blobId": self.server.hub.commit(filename)}
            if not self.server.hub.faults.without_sha256:
                entry["lfs"] = {"sha256": self.server.hub.announced(filename, path), "size": size, "pointerSize": 135}
        return entry

    def _entry(self, filename: str, path: Path) -> dict[str, Any]:
        size = path.stat().st_size
        entry: dict[str, Any] = {
            "type": "file",
            "path": filename,
            "size": size,
            "oid": self.server.hub.commit(filename),
        }
        if not self.server.hub.faults.without_sha256:
            entry["lfs"] = {"oid": self.server.hub.announced(filename, path), "size": size, "pointerSize": 135}
        return entry

    def _resolve(self, repository: str, revision: str, filename: str) -> None:
        if not self._admitted(repository, revision):
            return
        path = self.server.hub.repositories[repository].get(filename)
        if path is None:
            self._refuse(404, "EntryNotFound")
            return
        digest = self.server.hub.announced(filename, path)
        self._head(
            302,
            {
                "X-Repo-Commit": self.server.hub.commit(repository),
                "X-Linked-ETag": f'"{digest}"',
                "X-Linked-Size": path.stat().st_size,
                "ETag": f'"{digest}"',
                "Location": self.server.hub.faults.location or self.server.hub.signed(repository, filename),
                "Content-Length": 0,
            },
        )


class _StorageHandler(_Handler):
    """The bytes, for whoever holds a signed URL."""

    origin = "storage"

    def _answer(self, path: str, query: dict[str, list[str]]) -> None:
        if self._failed(self.server.hub.faults.storage_statuses):
            return
        expires, signature = query.get("expires", ["0"])[0], query.get("signature", [""])[0]
        right = hmac.compare_digest(signature, _signature(urlsplit(self.path).path, expires))
        if not right or float(expires) < time.time():
            self._refuse(403)
            return
        found = next(
            (
                file
                for repository, files in self.server.hub.repositories.items()
                for name, file in files.items()
                if path == f"/{repository}/{name}"
            ),
            None,
        )
        if found is None:
            self._refuse(404)
        else:
            self._file(found)

    def _file(self, path: Path) -> None:
        faults, size, etag = self.server.hub.faults, path.stat().st_size, f'"{self.server.hub.sha256(path)}"'
        total = size if faults.announced_total is None else faults.announced_total
        match = _RANGE.fullmatch(self.asked.range or "")
        if self.asked.if_range not in (None, etag) or faults.ignore_range:
            match = None
        headers: dict[str, str | int] = {"ETag": etag, "Accept-Ranges": "bytes"}
        if match is None:
            self._head(200, headers | {"Content-Length": total})
            self._send(path, 0, size)
            return
        start = int(match[1]) + faults.shift_range
        end = min(int(match[2]) + 1 if match[2] else size, size)
        if start >= size:
            self._head(416, {"Content-Range": f"bytes */{total}", "Content-Length": 0})
            return
        self._head(206, headers | {"Content-Range": f"bytes {start}-{end - 1}/{total}", "Content-Length": end - start})
        self._send(path, start, end)

    def _send(self, path: Path, start: int, end: int) -> None:
        if self.command == "HEAD":
            return
        faults = self.server.hub.faults
        limit = end - start
        dropped = bool(faults.drop_after) and faults.drop_after[0] < limit
        if faults.drop_after:
            limit = min(limit, faults.drop_after.pop(0))
        if faults.stall_after is not None:
            limit = min(limit, faults.stall_after)
        with path.open("rb") as file:
            file.seek(start)
            while self.asked.sent < limit and not self.server.hub.closing.is_set():
                self._send_block(file.fileno(), start + self.asked.sent, limit - self.asked.sent)
        if faults.stall_after is not None:
            self.server.hub.closing.wait(self.timeout)
        if dropped or faults.stall_after is not None:
            self.close_connection = True

    def _send_block(self, descriptor: int, start: int, left: int) -> None:
        """Send a block at the pace that is set now."""
        pace = self.server.hub.bytes_per_second
        size = min(left, BLOCK_BYTES if pace is None else max(1, int(pace / PACES_PER_SECOND)))
        block = os.pread(descriptor, size, start)
        if self.server.hub.faults.corrupt:
            block = bytes(byte ^ 0xFF for byte in block)
        self.connection.sendall(block)
        self.asked.sent += len(block)
        if pace is not None:
            self.server.hub.closing.wait(len(block) / pace)
