"""The parent's end of an engine's child process: start it, talk with it, notice its death or silence, end it."""

from __future__ import annotations

import errno
import os
import selectors
import signal
import subprocess
import sys
import tempfile
import threading
import time
import weakref
from pathlib import Path
from typing import TYPE_CHECKING, Any, BinaryIO

from sam_migrate.adapters.frames import READ_BYTES, Frames, pack
from sam_migrate.errors import EngineError, WaitingError

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    from sam_migrate.ports import Heed

    Answer = tuple[dict[str, Any], bytes]

POLL_SECONDS = 0.1
EXIT_SECONDS = 5.0
TAIL_LINES = 8
TAIL_BYTES = 4096
LOG_NAME = "engine.log"
LOG_BYTES_MAX = 1 << 20
CHILD = (sys.executable, "-P", "-m", "sam_migrate.adapters.llama_child")
EXTRA_HINT = "pip install 'sam_migrate[llama]'"


class LlamaProcess:
    """A running child; every method may be called from any thread, one at a time gets through.

    Requests are numbered and answered in order, but an answer may be fetched late or never: a caller that was
    stopped between the two leaves nothing behind that the next one could mistake for its own.
    """

    def __init__(self, heed: Heed | None, *, log_directory: Path | None, command: Sequence[str] = CHILD) -> None:
        """Start the child; `heed` is called at least every 0.2 s while we wait for it."""
        self._heed = heed or _nothing
        self._lock = threading.RLock()
        self._frames = Frames()
        self._outbox = bytearray()
        self._answers: dict[int, Answer] = {}
        self._forgotten: set[int] = set()
        self._number = 0
        self._log = _open_log(log_directory)
        self._log_start = self._log.seek(0, os.SEEK_END)
        try:
            self._process = _start(command, self._log)
        except BaseException:
            self._log.close()
            raise
        # Also at the end of the interpreter, and when the engine is dropped without being unloaded.
        self._end = weakref.finalize(self, _end, self._process, self._log)
        for pipe in (self._process.stdin, self._process.stdout):
            os.set_blocking(_descriptor(pipe), False)

    @property
    def pid(self) -> int:
        """The child's process id."""
        return self._process.pid

    def request(self, what: str, *, silence_seconds: float, **fields: Any) -> Answer:  # noqa: ANN401 - JSON values
        """Send a request and wait for its answer; see `receive`."""
        number = self.send(what, silence_seconds=silence_seconds, **fields)
        try:
            return self.receive(number, silence_seconds=silence_seconds)
        except BaseException:
            self.forget(number)
            raise

    def send(self, what: str, *, silence_seconds: float, **fields: Any) -> int:  # noqa: ANN401 - JSON values
        """Put the request into the child's hands completely, and return its number."""
        with self._lock:
            self._number += 1
            self._outbox += pack({"id": self._number, "do": what, **fields})
            try:
                self._wait(lambda: not self._outbox, silence_seconds=silence_seconds)
            except BaseException:
                self.forget(self._number)
                raise
            return self._number

    def receive(self, number: int, *, silence_seconds: float) -> Answer:
        """Wait for the answer; raise EngineError when the child dies, refuses, or is silent for too long.

        Silence is counted only while we wait ourselves: a stopped parent does not blame its child.
        """
        with self._lock:
            self._wait(lambda: number in self._answers, silence_seconds=silence_seconds)
            header, payload = self._answers.pop(number)
        if "error" in header:
            if header.get("missing"):
                raise EngineError(f"llama.cpp is not installed: {header['error']}", hint=EXTRA_HINT)
            raise EngineError(f"{header['error']}{self._tail()}")
        return header, payload

    def forget(self, number: int) -> None:
        """Drop the answer of a request that nobody waits for any more."""
        with self._lock:
            if self._answers.pop(number, None) is None:
                self._forgotten.add(number)

    @property
    def alive(self) -> bool:
        """Whether the child still answers, as far as we know."""
        return self._end.alive

    def close(self) -> None:
        """Kill the child and reap it. Idempotent; its memory is free when this returns."""
        # First the kill, so that a thread that waits for an answer gives up the lock.
        self._process.kill()
        with self._lock:
            self._end()

    def _wait(self, ready: Callable[[], bool], *, silence_seconds: float) -> None:
        silent = 0.0
        while not ready():
            if not self._end.alive:
                raise EngineError("the engine is not running")
            if silent >= silence_seconds:
                tail = self._tail()
                self.close()
                raise EngineError(f"the engine hung: no sign of life for {silence_seconds:g} s{tail}")
            begun = time.monotonic()
            moved = self._pump()
            silent = 0.0 if moved else silent + min(time.monotonic() - begun, 2 * POLL_SECONDS)
            self._heed()

    def _pump(self) -> bool:
        """Move what can be moved within one slice; return whether the child showed a sign of life."""
        with selectors.PollSelector() as selector:
            selector.register(_descriptor(self._process.stdout), selectors.EVENT_READ)
            if self._outbox:
                selector.register(_descriptor(self._process.stdin), selectors.EVENT_WRITE)
            events = selector.select(POLL_SECONDS)
        moved = False
        for _, mask in events:
            moved |= self._write() if mask & selectors.EVENT_WRITE else self._read()
        return moved

    def _write(self) -> bool:
        try:
            count = os.write(_descriptor(self._process.stdin), self._outbox[:READ_BYTES])
        except BlockingIOError:
            return False
        except BrokenPipeError:
            raise self._died() from None
        del self._outbox[:count]
        return True

    def _read(self) -> bool:
        try:
            data = os.read(_descriptor(self._process.stdout), READ_BYTES)
        except BlockingIOError:
            return False
        if not data:
            raise self._died()
        try:
            for header, payload in self._frames.feed(data):
                self._take(header, payload)
        except (ValueError, KeyError, TypeError) as error:
            self.close()
            raise EngineError(f"the engine answered with garbage: {error}") from error
        return True

    def _take(self, header: dict[str, Any], payload: bytes) -> None:
        number = header["id"]
        if header.get("tick"):
            return
        if number in self._forgotten:
            self._forgotten.discard(number)
        else:
            self._answers[number] = header, payload

    def _died(self) -> EngineError:
        try:
            code = self._process.wait(EXIT_SECONDS)
        except subprocess.TimeoutExpired:
            self._process.kill()
            code = self._process.wait()
        tail = self._tail()
        self.close()
        if code >= 0:
            return EngineError(f"the engine's process ended with status {code}{tail}", crashed=True)
        hint = "Is there enough memory for the model?" if code == -signal.SIGKILL else ""
        return EngineError(f"the engine crashed with {_signal_name(-code)}{tail}", crashed=True, hint=hint)

    def _tail(self) -> str:
        """Return the last lines the child wrote to stderr, to be put behind a sentence."""
        if self._log.closed:
            return ""
        descriptor = self._log.fileno()
        end = os.fstat(descriptor).st_size
        begin = max(min(self._log_start, end), end - TAIL_BYTES)
        text = os.pread(descriptor, end - begin, begin).decode(errors="replace")
        lines = [line.strip() for line in text.splitlines() if line.strip()]
        return ": " + " | ".join(lines[-TAIL_LINES:]) if lines else ""


def _nothing() -> None:
    pass


def _descriptor(pipe: Any) -> int:  # noqa: ANN401 - Popen types its pipes as optional
    number: int = pipe.fileno()
    return number


def _start(command: Sequence[str], log: BinaryIO) -> subprocess.Popen[bytes]:
    try:
        return subprocess.Popen(
            list(command),
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=log,
            env=_environment(),
            close_fds=True,
            bufsize=0,
        )
    except OSError as error:
        if error.errno in (errno.EMFILE, errno.ENFILE):
            raise WaitingError("descriptors", "no file descriptor is free for the engine's process") from error
        raise EngineError(f"the engine's process cannot be started: {error}") from error


def _environment() -> dict[str, str]:
    root = str(Path(__file__).resolve().parents[2])
    return {
        # OpenMP's threads spin while they wait, which is ruinous as soon as anybody else wants the cores.
        "OMP_WAIT_POLICY": "passive",
        **os.environ,
        "PYTHONPATH": os.pathsep.join(part for part in (root, os.environ.get("PYTHONPATH", "")) if part),
        # An aborting ggml would start gdb, which holds the process for minutes.
        "GGML_NO_BACKTRACE": "1",
    }


def _open_log(directory: Path | None) -> BinaryIO:
    try:
        if directory is None:
            return tempfile.TemporaryFile(buffering=0)
        directory.mkdir(parents=True, exist_ok=True)
        path = directory / LOG_NAME
        log = path.open("a+b", buffering=0)
        if os.fstat(log.fileno()).st_size > LOG_BYTES_MAX:
            log.truncate(0)
    except OSError as error:
        raise WaitingError("io", f"the engine's log cannot be written: {error}") from error
    return log


def _end(process: subprocess.Popen[bytes], log: BinaryIO) -> None:
    process.kill()
    for pipe in (process.stdin, process.stdout):
        if pipe is not None:
            pipe.close()
    try:
        process.wait(EXIT_SECONDS)
    except subprocess.TimeoutExpired:
        # Stuck in the kernel on a dead disk: it goes when the disk answers, and holds nothing of ours.
        pass
    finally:
        log.close()


def _signal_name(number: int) -> str:
    try:
        return signal.Signals(number).name
    except ValueError:
        return f"signal {number}"
