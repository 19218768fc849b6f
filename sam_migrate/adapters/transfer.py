"""The bytes of a remote file into a partial that survives a kill: checked when resumed, durable before it is told.

Knows HTTP only through `wire`; whether the digest is the right one is for the domain to judge.
"""

from __future__ import annotations

import hashlib
import os
import stat
import sys
from collections import deque
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import dataclass
from typing import TYPE_CHECKING, Final

from sam_migrate.adapters.connection import SLICE_SECONDS, Background, TransientError
from sam_migrate.adapters.durable import sync_descriptor, sync_directory, translate
from sam_migrate.adapters.wire import Wire
from sam_migrate.errors import HubRefusedError, RefusedError, WaitingError
from sam_migrate.ports import Segment

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Sequence
    from pathlib import Path

    from sam_migrate.adapters.wire import Body
    from sam_migrate.ports import Advance, Clock, Heed, RemoteFile

BLOCK_BYTES: Final = 1 << 20
ATTEMPTS_MAX: Final = 8
STALL_SECONDS: Final = 30.0
BACKOFF_SECONDS_MIN: Final = 0.5
BACKOFF_SECONDS_MAX: Final = 30.0
RETRY_AFTER_SECONDS_MAX: Final = 600.0
RESTARTS_MAX: Final = 1
PAUSE_SECONDS: Final = 0.2


@dataclass(frozen=True, slots=True, kw_only=True)
class Bounds:
    """How much may be lost to a kill, and how long the network may do nothing for us."""

    checkpoint_seconds: float
    checkpoint_bytes_min: int
    checkpoint_bytes_max: int
    attempts_max: int
    stall_seconds: float


class HttpTransfer:
    """The Transfer port over http.client."""

    def __init__(
        self,
        token: str | Callable[[], str | None] | None,
        endpoint: str,
        *,
        clock: Clock,
        checkpoint_seconds: float = 5.0,
        checkpoint_bytes_min: int = 4 << 20,
        checkpoint_bytes_max: int = 256 << 20,
        attempts_max: int = ATTEMPTS_MAX,
        stall_seconds: float = STALL_SECONDS,
    ) -> None:
        """Keep the bounds; the token, or what finds it, is asked for at each request to the Hub's own origin.

        A checkpoint is due after `checkpoint_seconds`, not before `checkpoint_bytes_min` and at the latest after
        `checkpoint_bytes_max`. `attempts_max` counts attempts in a row that brought no byte.
        """
        self._clock = clock
        self._bounds = Bounds(
            checkpoint_seconds=checkpoint_seconds,
            checkpoint_bytes_min=checkpoint_bytes_min,
            checkpoint_bytes_max=checkpoint_bytes_max,
            attempts_max=attempts_max,
            stall_seconds=stall_seconds,
        )
        find = token if callable(token) else lambda: token
        self._wire = Wire(endpoint, find, clock=clock, stall_seconds=stall_seconds)

    def fetch(
        self,
        remote: RemoteFile,
        partial: Path,
        *,
        segments: Sequence[Segment],
        checkpoint: Callable[[Segment], None],
        heed: Heed,
        advance: Advance,
    ) -> str:
        """Complete `partial` and return its SHA-256 over all bytes.

        Trusts no byte outside `segments`, which are re-hashed first; of a damaged one just its own bytes are fetched
        again. `advance` counts every byte of the file once, whether it was found or fetched. One process at a time.
        """
        with (
            translate(partial),
            _opened(partial, remote.size_bytes) as descriptor,
            ThreadPoolExecutor(max_workers=1) as pool,
        ):
            work = _Fetch(self._wire, self._clock, self._bounds, remote=remote, descriptor=descriptor, pool=pool)
            work.known = deque(sorted(segments, key=lambda segment: segment.start))
            work.checkpoint, work.heed, work.advance = checkpoint, heed, advance
            return work.run()


@contextmanager
def _opened(partial: Path, size_bytes: int) -> Iterator[int]:
    """Open the partial, its name durable, nothing beyond the announced size in it."""
    try:
        descriptor = os.open(partial, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC | os.O_NOFOLLOW | os.O_NONBLOCK, 0o644)
    except FileNotFoundError as error:
        raise WaitingError(
            "file", f"{partial.parent} is not there any more", hint="Put it back, then resume."
        ) from error
    try:
        facts = os.fstat(descriptor)
        if not stat.S_ISREG(facts.st_mode):
            raise RefusedError(f"{partial} is not a regular file", hint="Move it away, then retry.")
        if facts.st_size > size_bytes:
            os.ftruncate(descriptor, size_bytes)
        # Without this the log could know segments of a file whose name a power cut takes away.
        sync_directory(partial.parent)
        yield descriptor
    finally:
        os.close(descriptor)


class _Fetch:
    """One fetch: a walk from byte 0 to the end that trusts what the log proves and fetches what it does not."""

    known: deque[Segment]
    checkpoint: Callable[[Segment], None]
    heed: Heed
    advance: Advance

    def __init__(
        self,
        wire: Wire,
        clock: Clock,
        bounds: Bounds,
        *,
        remote: RemoteFile,
        descriptor: int,
        pool: ThreadPoolExecutor,
    ) -> None:
        self._wire = wire
        self._clock = clock
        self._bounds = bounds
        self._remote = remote
        self._descriptor = descriptor
        self._pool = pool
        self._block = memoryview(bytearray(BLOCK_BYTES))
        self._restarts = 0
        self._failures = 0
        self._etag: str | None = None
        self._counted = 0
        self._pending: tuple[Segment, Background[None]] | None = None
        self._go_to(0, hashlib.sha256())

    def run(self) -> str:
        size = self._remote.size_bytes
        while self._position < size:
            while self.known and self.known[0].start < self._position:
                self.known.popleft()
            end = min(self.known[0].start, size) if self.known else size
            if end > self._position:
                self._fill(end)
                continue
            segment = self.known.popleft()
            if segment.start < segment.end <= size and not self._trusted(segment):
                self._fill(segment.end)
        self._settle(wait=True)
        return self._total.hexdigest()

    def _trusted(self, segment: Segment) -> bool:
        """Hash what the log calls durable; go past it if it still is what the log says."""
        total, found = self._total.copy(), hashlib.sha256()
        position = segment.start
        while position < segment.end:
            self.heed()
            try:
                content = os.pread(self._descriptor, min(BLOCK_BYTES, segment.end - position), position)
            except OSError:
                # A sector that cannot be read is damage like any other: writing over it is what may cure it.
                return False
            if not content:
                return False
            found.update(content)
            total.update(content)
            position += len(content)
        if found.hexdigest() != segment.sha256:
            return False
        self._go_to(position, total)
        self._count()
        return True

    def _fill(self, end: int) -> None:
        """Fetch from here to `end`, over as many connections as it takes."""
        self._go_to(self._position, self._total)
        while self._position < end:
            before, fault = self._position, TransientError("the server began to send other bytes")
            try:
                self._attempt(end)
            except TransientError as error:
                fault = error
            if self._position < end:
                self._failures = 0 if self._position > before else self._failures + 1
                self._wait_after(fault)
        self._seal()

    def _attempt(self, end: int) -> None:
        body = self._wire.open(self._remote, start=self._position, end=end, etag=self._etag, heed=self._look_up)
        with body:
            if body.start < self._position and not self._same_until_here(body):
                self._start_over()
                return
            self._etag = body.etag
            while self._position < end:
                count = self._received(body, end - self._position)
                if not count:
                    raise TransientError("the answer ended early")
                self._take(self._block[:count])

    def _received(self, body: Body, wanted: int) -> int:
        """Receive a block, or what comes of it within a slice."""
        view = self._block[: min(BLOCK_BYTES, wanted)]
        filled, until = 0, self._clock.monotonic() + SLICE_SECONDS
        while filled < len(view):
            try:
                count = body.readinto(view[filled:])
            except TransientError:
                # What came before the connection broke is as good as any; the next read says so again.
                if filled:
                    return filled
                raise
            filled += count
            if not count or self._clock.monotonic() >= until:
                break
        return filled

    def _same_until_here(self, body: Body) -> bool:
        """Read an answer that begins at 0 up to our position, and tell whether it brought the bytes we have."""
        found, left = hashlib.sha256(), self._position
        while left:
            count = self._received(body, left)
            if not count:
                raise TransientError("the answer ended early")
            found.update(self._block[:count])
            left -= count
        return found.digest() == self._total.digest()

    def _start_over(self) -> None:
        """Forget everything: what the server sends from 0 is not what we have, and only one of them can be whole."""
        self._restarts += 1
        if self._restarts > RESTARTS_MAX:
            raise HubRefusedError(
                f"{self._remote.filename}: the server sends other bytes each time it is asked",
                hint="Check HF_ENDPOINT and the proxy, then retry.",
            )
        self.known.clear()
        self._pending = None
        self._etag = None
        self._go_to(0, hashlib.sha256())

    def _take(self, view: memoryview) -> None:
        # Hashing is what costs, and it needs no interpreter: one digest here, the other beside it.
        digests = [self._total] if self._part is None else [self._total, self._part]
        beside = self._pool.submit(digests[-1].update, view)
        for digest in digests[:-1]:
            digest.update(view)
        written = 0
        while written < len(view):
            written += os.pwrite(self._descriptor, view[written:], self._position + written)
        beside.result()
        self._position += len(view)
        self._count()
        self._checkpoint_when_due()

    def _look_up(self) -> None:
        """Do what is due in a silence, too: tell of durable segments, and heed."""
        self._checkpoint_when_due()
        self.heed()

    def _checkpoint_when_due(self) -> None:
        self._settle(wait=False)
        size, bounds = self._position - self._segment_start, self._bounds
        if size >= bounds.checkpoint_bytes_max or (
            size >= bounds.checkpoint_bytes_min
            and self._clock.monotonic() - self._segment_began >= bounds.checkpoint_seconds
        ):
            self._seal()

    def _seal(self) -> None:
        """End the segment here and begin to make it durable, while the next one comes."""
        self._settle(wait=True)
        if self._position > self._segment_start:
            digest = (self._part or self._total).hexdigest()
            segment = Segment(start=self._segment_start, end=self._position, sha256=digest)
            duplicate = os.dup(self._descriptor)
            self._pending = segment, Background(lambda: _flush(duplicate))
        self._go_to(self._position, self._total)

    def _settle(self, *, wait: bool) -> None:
        """Tell of the segment that was sealed, once the disk has it."""
        if self._pending is None:
            return
        segment, flush = self._pending
        while not flush.finished(timeout_seconds=SLICE_SECONDS if wait else 0):
            if not wait:
                return
            self.heed()
        self._pending = None
        flush.result()
        self.checkpoint(segment)

    def _wait_after(self, fault: TransientError) -> None:
        """Let time go by before the next attempt, or give up when the budget is spent."""
        seconds = min(BACKOFF_SECONDS_MAX, BACKOFF_SECONDS_MIN * 2**self._failures)
        if fault.retry_after_seconds is not None:
            seconds = fault.retry_after_seconds
        if self._failures >= self._bounds.attempts_max or seconds > RETRY_AFTER_SECONDS_MAX:
            self._seal()
            self._settle(wait=True)
            asked = f"; it asks for {seconds:.0f} s of patience" if seconds > RETRY_AFTER_SECONDS_MAX else ""
            raise WaitingError(
                "network",
                f"{self._remote.filename}: {fault.reason}{asked}; {self._position} of {self._remote.size_bytes} bytes "
                "are here",
                hint="Check the connection to the Hub, then resume; what is verified is not fetched again.",
            ) from fault
        while seconds > 0:
            self._look_up()
            self._clock.pause(min(PAUSE_SECONDS, seconds))
            seconds -= PAUSE_SECONDS
        self._look_up()

    def _go_to(self, position: int, total: hashlib._Hash) -> None:
        """Begin a segment here; `total` is the state of the digest over all bytes before."""
        self._position = position
        self._total = total
        # The first segment's digest is that of all bytes so far: the only one that costs nothing.
        self._part = hashlib.sha256() if position else None
        self._segment_start = position
        self._segment_began = self._clock.monotonic()

    def _count(self) -> None:
        if self._position > self._counted:
            self.advance(self._position - self._counted)
            self._counted = self._position


def _flush(descriptor: int) -> None:
    """Make the file's bytes and size durable and close the descriptor."""
    try:
        if sys.platform == "linux":
            os.fdatasync(descriptor)
        else:
            sync_descriptor(descriptor)
    finally:
        os.close(descriptor)
