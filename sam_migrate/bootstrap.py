"""The only place where adapters and store are chosen and wired; imports are late here so that `status` starts fast."""

from __future__ import annotations

import os
import secrets
import socket
import uuid
from dataclasses import dataclass
from typing import TYPE_CHECKING

from sam_migrate.errors import IntegrityError

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path

    from event_store.store import EventStore as EventStore  # noqa: PLC0414 - the entrypoints name it through here
    from sam_migrate.config import Settings
    from sam_migrate.domain.engine import ServedEngine
    from sam_migrate.downloads import Downloads
    from sam_migrate.model_interface import BaseModelEngine
    from sam_migrate.planner import Planner
    from sam_migrate.ports import Generations, Locks, Observer
    from sam_migrate.runner import Runner
    from sam_migrate.service import Service
    from sam_migrate.steps.world import World


@dataclass(frozen=True, slots=True, kw_only=True)
class Application:
    """Everything wired for one home in one process; close the store when done."""

    settings: Settings
    store: EventStore
    service: Service
    world: World
    locks: Locks
    downloads: Downloads
    planner: Planner
    runner: Runner


class Silence:
    """An observer that looks away."""

    def started(self, step: str, sentence: str) -> None:
        """Let the step begin unseen."""

    def progressed(self, *, done: float, total: float, unit: str) -> None:
        """Let it go on unseen."""

    def noted(self, sentence: str) -> None:
        """Keep it to oneself."""


def open_log(settings: Settings) -> EventStore | None:
    """Open the log for reading; None where this home has none yet."""
    return _store(settings) if settings.log.exists() else None


def build(
    settings: Settings, *, observer: Observer | None = None, interrupted: Callable[[], bool] = lambda: False
) -> Application:
    """Wire everything, making the state directory where there is none.

    Raises IntegrityError when the log is older than what lies beside it, and then writes nothing.
    """
    from sam_migrate.downloads import Downloads
    from sam_migrate.planner import Planner
    from sam_migrate.runner import Runner
    from sam_migrate.service import Service

    settings.state_directory.mkdir(mode=0o700, parents=True, exist_ok=True)
    world, locks = _world(settings, observer or Silence())
    store = _store(settings)
    _refuse_old_copy(store, world.generations)
    service = Service(store, new_id=lambda: uuid.uuid4().hex)
    runner = f"{socket.gethostname()}-{os.getpid()}-{_short_id()}"
    downloads = Downloads(service, locks, world, runner=runner, new_id=_short_id)
    return Application(
        settings=settings,
        store=store,
        service=service,
        world=world,
        locks=locks,
        downloads=downloads,
        planner=Planner(service, world, new_id=_short_id),
        runner=Runner(service, locks, world, downloads, runner=runner, new_id=_short_id, interrupted=interrupted),
    )


def open_generations(settings: Settings) -> Generations:
    """Open the generations for reading."""
    from sam_migrate.adapters.generations import GenerationDirectories

    return GenerationDirectories(settings.state_directory / "generations", caches=settings.state_directory / "staging")


def open_engine(settings: Settings, engine: ServedEngine, path: Path, *, safe_mode: bool) -> BaseModelEngine:
    """Load an engine for a reader; the caller unloads it."""
    from sam_migrate.adapters.llama import LlamaEngines

    engines = LlamaEngines(log_directory=settings.state_directory / "logs")
    return engines.open(engine, path, safe_mode=safe_mode, heed=lambda: None)


def _store(settings: Settings) -> EventStore:
    from event_store.sqlite import SqliteEventStore

    return SqliteEventStore(settings.log)


def _world(settings: Settings, observer: Observer) -> tuple[World, Locks]:
    from sam_migrate.adapters.backups import ContentBackups
    from sam_migrate.adapters.clock import SystemClock
    from sam_migrate.adapters.disk import LocalDisk
    from sam_migrate.adapters.gguf import read_header
    from sam_migrate.adapters.hub import HuggingFaceHub
    from sam_migrate.adapters.library import ModelLibrary
    from sam_migrate.adapters.llama import LlamaEngines
    from sam_migrate.adapters.locks import FileLocks
    from sam_migrate.adapters.transfer import HttpTransfer
    from sam_migrate.sam.home import SamHome
    from sam_migrate.steps.world import World

    clock, disk, state = SystemClock(), LocalDisk(), settings.state_directory
    hub = HuggingFaceHub(settings.hub_endpoint, None)
    world = World(
        home=settings.home,
        state_directory=state,
        models_dir=settings.models_dir,
        clock=clock,
        hub=hub,
        transfer=HttpTransfer(lambda: hub.token, hub.endpoint, clock=clock),
        library=ModelLibrary(settings.models_dir, read_header=read_header),
        generations=open_generations(settings),
        backups=ContentBackups(state / "backups"),
        engines=LlamaEngines(log_directory=state / "logs"),
        host=SamHome(settings.home, disk, models_dir=settings.models_dir),
        disk=disk,
        observer=observer,
    )
    return world, FileLocks(state / "locks")


def _refuse_old_copy(store: EventStore, generations: Generations) -> None:
    """Refuse a log that ends before a generation was made: it was restored from an old copy."""
    position = store.head().position
    for generation_id in generations.ids():
        manifest = generations.manifest(generation_id)
        if manifest is not None and manifest.position > position:
            raise IntegrityError(
                f"generation {generation_id} was made at event {manifest.position}, but the log ends at {position}: "
                "the log is an old copy",
                hint="Bring back the newest events.db; nothing was written.",
            )


def _short_id() -> str:
    return secrets.token_hex(4)
