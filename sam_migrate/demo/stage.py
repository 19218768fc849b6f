"""The stage of the demo: a worker process that can be killed, a log that can be watched, checks that are counted."""

from __future__ import annotations

import hashlib
import json
import os
import signal
import subprocess
import sys
import time
from contextlib import closing
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, Final, TypeVar

from sam_migrate import bootstrap, codec, config, views
from sam_migrate.domain import events
from sam_migrate.errors import FailedError

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator
    from pathlib import Path

    from event_store.store import EventStore

Kind = TypeVar("Kind", bound=events.Event)

WATCH_SECONDS: Final = 0.02
ACT_SECONDS_MAX: Final = 300.0
"""No act of the story takes longer, unless something hangs."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Checked:
    """One check that was really made."""

    name: str
    ok: bool
    found: str


@dataclass
class Stage:
    """One home, the Hub it downloads from, and what was checked."""

    home: Path
    endpoint: str
    quiet: bool
    checks: list[Checked] = field(default_factory=list)

    def say(self, sentence: str = "") -> None:
        """Tell the audience."""
        if not self.quiet:
            sys.stdout.write(sentence + "\n")
            sys.stdout.flush()

    def check(self, name: str, *, ok: bool, found: str) -> None:
        """Write down what was compared, and how it came out."""
        self.checks.append(Checked(name=name, ok=ok, found=found))

    def start(self, *arguments: str) -> subprocess.Popen[bytes]:
        """Start the command line as a user would, in a process of its own."""
        self.say(f"$ sam-migrate {' '.join(arguments)}")
        command = [sys.executable, "-m", "sam_migrate", "--home", str(self.home)]
        if self.quiet:
            command.append("--quiet")
        environment = {**os.environ, "HF_ENDPOINT": self.endpoint}
        return subprocess.Popen([*command, *arguments], env=environment, stdin=subprocess.DEVNULL, stdout=sys.stderr)

    def run(self, *arguments: str) -> int:
        """Run the command line to its end and return its exit status."""
        return self.start(*arguments).wait(ACT_SECONDS_MAX)

    def ask(self, *arguments: str) -> dict[str, Any]:
        """Run a command for its JSON object."""
        command = [sys.executable, "-m", "sam_migrate", "--home", str(self.home), "--quiet", "--json", *arguments]
        found: dict[str, Any] = json.loads(subprocess.run(command, check=False, capture_output=True).stdout)
        return found

    def kill_when(self, worker: subprocess.Popen[bytes], due: Callable[[EventStore], bool]) -> bool:
        """Kill the worker the hard way as soon as the log shows that it is in the middle of it."""
        settings = config.read(self.home)
        deadline = time.monotonic() + ACT_SECONDS_MAX
        while worker.poll() is None and time.monotonic() < deadline:
            store = bootstrap.open_log(settings)
            if store is not None:
                with closing(store):
                    if due(store):
                        worker.send_signal(signal.SIGKILL)
                        worker.wait()
                        if sys.stderr.isatty():
                            sys.stderr.write("\x1b[?25h\n")  # the killed bar had hidden the cursor
                        return True
            time.sleep(WATCH_SECONDS)
        worker.wait(ACT_SECONDS_MAX)
        return False

    @property
    def log(self) -> EventStore:
        """Open the log; the caller closes it."""
        store = bootstrap.open_log(config.read(self.home))
        if store is None:
            raise FailedError("the demo's home has no log")
        return store

    def history(self, kind: type[Kind], stream: str = "migration-") -> list[Kind]:
        """Return all events of a class in the streams of that name, in order."""
        with closing(self.log) as store:
            records = [known for known in store.read_all() if known.stream.startswith(stream)]
            return [event for event in codec.decode_all(records) if isinstance(event, kind)]


def download_under_way(store: EventStore) -> bool:
    """Tell whether a download has durable bytes and is not at its end."""
    return any(
        0 < run.details["downloaded_bytes"] < run.details["total_bytes"]
        for run in views.downloads(store, statuses=("in_progress",))
    )


def embedding_under_way(store: EventStore) -> bool:
    """Tell whether some, but not all chunks of the open migration are embedded."""
    for run in views.migrations(store, statuses=("in_progress",)):
        if run.details["current_step"] != "re_embed":
            continue
        told = [event for event in _events(store, run.run_id) if isinstance(event, events.ChunksEmbedded)]
        return bool(told) and 0 < told[-1].done < told[-1].total
    return False


def _events(store: EventStore, run_id: str) -> Iterator[events.Event]:
    yield from codec.decode_all(store.read(f"migration-{run_id}"))


def fingerprint(home: Path) -> dict[str, str]:
    """Return the SHA-256 of every file of SAM's that a migration may write, by its name."""
    files = [home / "sam_config.json", home / "models/personalized/model_registry.json"]
    files += sorted((home / "memory_store").glob("mem_*.json"))
    return {str(path.relative_to(home)): hashlib.sha256(path.read_bytes()).hexdigest() for path in files}
