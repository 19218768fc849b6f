"""What a step is given: the run as it stands, the world through its ports, and a way to record and to heed."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path

    from sam_migrate import ports
    from sam_migrate.domain.engine import CatalogEntry
    from sam_migrate.domain.events import Event
    from sam_migrate.domain.generation import Generation, Home
    from sam_migrate.domain.migration import Migration


@dataclass(frozen=True, slots=True, kw_only=True)
class World:
    """Everything outside, wired once; `home` is SAM's directory, `state_directory` ours below it."""

    home: Path
    state_directory: Path
    models_dir: Path
    clock: ports.Clock
    hub: ports.Hub
    transfer: ports.Transfer
    library: ports.Library
    generations: ports.Generations
    backups: ports.Backups
    engines: ports.Engines
    host: ports.Host
    disk: ports.Disk
    observer: ports.Observer

    def relative(self, path: Path) -> str:
        """Return the path as events keep it: relative to home where it lies below it."""
        return str(path.relative_to(self.home)) if path.is_relative_to(self.home) else str(path)

    def absolute(self, path: str) -> Path:
        """Return the place an event's path means on this machine."""
        return self.home / path


@dataclass(frozen=True, slots=True, kw_only=True)
class VerifiedModel:
    """A model file in the library whose bytes were hashed in this run."""

    path: Path
    sha256: str
    size_bytes: int


@dataclass(frozen=True, slots=True, kw_only=True)
class Work:
    """One step of one run; `state` is the fold at its start.

    `record` appends an event that is not the outcome; `commit` appends the one that moves the pointer and
    returns the state after it. `obtain` brings a model into the library, `log_head` tells the log's position.
    """

    state: Migration
    home: Home
    world: World
    heed: ports.Heed
    record: Callable[[Event], Migration]
    commit: Callable[[Event, tuple[Generation, ...]], Migration]
    obtain: Callable[[CatalogEntry, str | None], VerifiedModel]
    log_head: Callable[[], tuple[int, str]]

    def generation(self, generation_id: str | None) -> Generation | None:
        """Return a committed generation by its id."""
        return self.home.find(generation_id) if generation_id else None

    @property
    def base(self) -> Generation | None:
        """Return the generation this run builds on."""
        return self.generation(self.state.begun.base)

    @property
    def target(self) -> Generation | None:
        """Return the kept generation this run goes back to, for a rollback."""
        return self.generation(self.state.required.target)
