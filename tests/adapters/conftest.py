"""A Hub on loopback with one model, a clock that does not wait, and a download between the two."""

from __future__ import annotations

import hashlib
import os
import random
import time
from dataclasses import dataclass, field
from datetime import UTC, datetime
from typing import TYPE_CHECKING

import pytest

from sam_migrate.adapters.transfer import HttpTransfer
from sam_migrate.demo.hub import LoopbackHub
from sam_migrate.errors import StopRequested
from sam_migrate.ports import RemoteFile, Segment

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator
    from pathlib import Path

MIB = 1 << 20
REPOSITORY = "org/model"
FILENAME = "model-Q4.gguf"


class HastyClock:
    """The system's time, but a pause is only noted."""

    def __init__(self) -> None:
        """Begin with no pauses."""
        self.paused: list[float] = []

    def now(self) -> datetime:
        """Return the time in UTC."""
        return datetime.now(UTC)

    def monotonic(self) -> float:
        """Return seconds that never go back."""
        return time.monotonic()

    def pause(self, seconds: float) -> None:
        """Note how long somebody wanted to wait."""
        self.paused.append(seconds)


@dataclass
class Download:
    """A download as its log would know it: the segments told, the bytes counted, the pauses taken."""

    server: LoopbackHub
    remote: RemoteFile
    partial: Path
    clock: HastyClock
    segments: list[Segment] = field(default_factory=list)
    counted: int = 0

    def run(
        self,
        *,
        heed: Callable[[], None] = lambda: None,
        token: str | None = None,
        attempts_max: int = 3,
        stall_seconds: float = 30.0,
    ) -> str:
        """Fetch with checkpoints of 1 MiB."""
        transfer = HttpTransfer(
            token,
            self.server.endpoint,
            clock=self.clock,
            checkpoint_bytes_min=MIB,
            checkpoint_bytes_max=MIB,
            attempts_max=attempts_max,
            stall_seconds=stall_seconds,
        )
        known, self.counted = list(self.segments), 0
        return transfer.fetch(
            self.remote,
            self.partial,
            segments=known,
            checkpoint=self.segments.append,
            heed=heed,
            advance=self.count,
        )

    def count(self, done: int) -> None:
        """Add up what is done."""
        self.counted += done

    def ranges(self) -> list[str | None]:
        """Return the ranges that were asked of the storage."""
        return [asked.range for asked in self.server.log if asked.origin == "storage"]

    def cut_to(self, segments: int) -> None:
        """Go back to the moment of a kill behind that many segments, some bytes of the next one written."""
        del self.segments[segments:]
        os.truncate(self.partial, segments * MIB + 1000)
        self.server.log.clear()

    def right(self) -> bool:
        """Tell whether the partial holds what is served."""
        return hashlib.sha256(self.partial.read_bytes()).hexdigest() == self.remote.sha256


def stop_when(asked: Callable[[], bool]) -> Callable[[], None]:
    """Make a heed that raises once somebody asked."""

    def heed() -> None:
        if asked():
            raise StopRequested("cancel")

    return heed


@pytest.fixture
def hub_clock() -> HastyClock:
    """Give a clock that does not wait."""
    return HastyClock()


@pytest.fixture
def hub_file(tmp_path: Path) -> Path:
    """Make a file of some megabytes that is the same every time."""
    path = tmp_path / "served.gguf"
    path.write_bytes(random.Random(7).randbytes(3 << 20))  # noqa: S311 - any bytes will do
    return path


@pytest.fixture
def hub_server(hub_file: Path) -> Iterator[LoopbackHub]:
    """Serve one open and one gated repository."""
    files = {FILENAME: hub_file}
    repositories = {REPOSITORY: files, "org/gated": files}
    with LoopbackHub(repositories, gated={"org/gated"}, tokens={"hf_good"}) as hub:
        yield hub


@pytest.fixture
def hub_remote(hub_server: LoopbackHub, hub_file: Path) -> RemoteFile:
    """Pin the served file."""
    commit = hub_server.commit(REPOSITORY)
    return RemoteFile(
        repository=REPOSITORY,
        filename=FILENAME,
        commit=commit,
        size_bytes=hub_file.stat().st_size,
        sha256=hub_server.sha256(hub_file),
        url=f"{hub_server.endpoint}/{REPOSITORY}/resolve/{commit}/{FILENAME}",
    )


@pytest.fixture
def hub_download(hub_server: LoopbackHub, hub_remote: RemoteFile, tmp_path: Path, hub_clock: HastyClock) -> Download:
    """Make a download that has not begun."""
    return Download(hub_server, hub_remote, tmp_path / "x.part", hub_clock)
