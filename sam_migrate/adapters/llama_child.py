"""The child process that holds llama.cpp: it answers requests on its pipe and exits when the pipe closes.

Whatever llama.cpp prints goes to stderr; the pipe the parent reads is a descriptor of its own. Three threads: one
reads, so that the end of the parent is noticed while the model computes; one computes; one writes, so that a
parent that is busy with the last answer does not hold up the next.
"""

from __future__ import annotations

import importlib
import os
import queue
import resource
import signal
import sys
import threading
import time
from typing import TYPE_CHECKING, Any

from sam_migrate.adapters.frames import READ_BYTES, Frames, pack

if TYPE_CHECKING:
    from sam_migrate.adapters.llama_model import Model

TICK_SECONDS = 0.5


def main() -> None:
    """Serve requests until the parent closes the pipe."""
    # Ctrl-C goes to the whole foreground group; the parent decides what it means for us.
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    # An aborting engine must not write gigabytes of mapped model to a core file.
    resource.setrlimit(resource.RLIMIT_CORE, (0, resource.getrlimit(resource.RLIMIT_CORE)[1]))
    os.environ["GGML_NO_BACKTRACE"] = "1"
    source, sink = os.dup(0), os.dup(1)
    os.dup2(2, 1)
    nothing = os.open(os.devnull, os.O_RDONLY)
    os.dup2(nothing, 0)
    os.close(nothing)
    _Child(source, sink).serve()


class _Child:
    """One model at most, and the two queues between the threads."""

    def __init__(self, source: int, sink: int) -> None:
        self._source = source
        self._sink = sink
        self._requests: queue.SimpleQueue[dict[str, Any]] = queue.SimpleQueue()
        self._answers: queue.SimpleQueue[bytes] = queue.SimpleQueue()
        self._model: Model | None = None
        self._current = 0
        self._ticked = 0.0

    def serve(self) -> None:
        for work in (self._read, self._write):
            threading.Thread(target=work, daemon=True).start()
        while True:
            request = self._requests.get()
            self._current = request["id"]
            header, payload = self._answer(request)
            self._answers.put(pack({"id": request["id"], **header}, payload))

    def _answer(self, request: dict[str, Any]) -> tuple[dict[str, Any], bytes]:
        try:
            return self._perform(request)
        except ImportError as error:
            return {"error": str(error), "missing": True}, b""
        except Exception as error:  # noqa: BLE001 - whatever a model does to us is an answer, not an end
            return {"error": str(error) or type(error).__name__}, b""

    def _perform(self, request: dict[str, Any]) -> tuple[dict[str, Any], bytes]:
        if request["do"] == "load":
            return self._load(request), b""
        if self._model is None:
            raise RuntimeError("no model is loaded")
        begun = time.monotonic()
        answer: dict[str, Any] = {}
        payload = b""
        match request["do"]:
            case "facts":
                answer = {**self._model.facts(), "peak_memory_bytes": _peak_memory_bytes()}
            case "render":
                answer = {"prompt": self._model.render(request["messages"])}
            case "generate":
                text, tokens = self._model.generate(request["prompt"], request["options"])
                answer = {"text": text, "tokens": tokens}
            case "embed":
                vectors, distinct = self._model.embed(request["texts"])
                answer = {"rows": len(vectors), "distinct": distinct}
                payload = vectors.tobytes()
            case other:
                raise ValueError(f"unknown request {other!r}")
        return {**answer, "seconds": time.monotonic() - begun}, payload

    def _load(self, request: dict[str, Any]) -> dict[str, Any]:
        # Only now: the parent wants to hear of a missing llama.cpp in a sentence, not as a traceback.
        llama_model = importlib.import_module("sam_migrate.adapters.llama_model")
        model: Model = llama_model.Model(
            request["path"],
            safe_mode=request["safe_mode"],
            context_tokens=request["context_tokens"],
            threads=request["threads"],
            tick=self._tick,
        )
        self._model = model
        return {"dimension": model.dimension, "context_length": model.context_length}

    def _tick(self) -> None:
        # Tells the parent that we compute: a slow model is not a hung one.
        now = time.monotonic()
        if now - self._ticked >= TICK_SECONDS:
            self._ticked = now
            self._answers.put(pack({"id": self._current, "tick": True}))

    def _read(self) -> None:
        frames = Frames()
        while data := os.read(self._source, READ_BYTES):
            for header, _ in frames.feed(data):
                self._requests.put(header)
        # No interpreter shutdown: the other thread may be deep inside of llama.cpp.
        os._exit(0)

    def _write(self) -> None:
        while True:
            rest = memoryview(self._answers.get())
            while rest:
                try:
                    rest = rest[os.write(self._sink, rest) :]
                except BrokenPipeError:
                    os._exit(0)


def _peak_memory_bytes() -> int:
    # ru_maxrss on Linux still counts the parent's memory from before exec; VmHWM does not.
    if sys.platform != "linux":
        return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    with open("/proc/self/status", encoding="ascii", errors="replace") as status:  # noqa: PTH123 - not a file
        lines = (line.split() for line in status)
        return next((int(words[1]) * 1024 for words in lines if words[0] == "VmHWM:"), 0)


if __name__ == "__main__":
    main()
