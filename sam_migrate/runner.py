"""The loop of a migration: load, fold, next step, perform, record. Resuming is this loop, nothing else."""

from __future__ import annotations

import os
from contextlib import suppress
from typing import TYPE_CHECKING, Final

import structlog

from sam_migrate import codec
from sam_migrate.attention import Attention
from sam_migrate.domain import commands, events, lifecycle, migration
from sam_migrate.errors import (
    BadFileError,
    FailedError,
    LockedError,
    OpenRunError,
    RefusedError,
    SamMigrateError,
    StopRequested,
    UnknownEngineError,
    WaitingError,
)
from sam_migrate.steps import (
    backup,
    cutover,
    fetch,
    preflight,
    probe,
    prompts,
    re_embed,
    rehearse,
    retire,
    verify,
)
from sam_migrate.steps.world import VerifiedModel, Work

if TYPE_CHECKING:
    from collections.abc import Callable

    from sam_migrate.domain.download import Download
    from sam_migrate.domain.engine import CatalogEntry
    from sam_migrate.domain.generation import Generation
    from sam_migrate.domain.migration import Migration
    from sam_migrate.downloads import Downloads
    from sam_migrate.ports import Locks
    from sam_migrate.service import Service
    from sam_migrate.steps.world import World

LOCK: Final = "migrations"
OBEY_SECONDS: Final = 5.0
"""How long one waits for a living worker to obey a cancel before telling its pid."""

_SENTENCES: Final = {
    migration.PREFLIGHT: "checking what can be known beforehand",
    migration.FETCH: "bringing the model",
    migration.PROBE: "trying the engine in a process of its own",
    migration.BACKUP: "copying what a mistake could cost",
    migration.RE_EMBED: "embedding every chunk with the new engine",
    migration.PROMPTS: "composing the prompt set",
    migration.REHEARSE: "rehearsing search on your own corpus",
    migration.CUTOVER: "switching: one append moves the pointer, then the files follow",
    migration.VERIFY: "verifying through the new configuration",
    migration.RETIRE: "clearing away what nothing reaches any more",
}
_PERFORM: Final[dict[str, Callable[[Work], events.Event | None]]] = {
    migration.PREFLIGHT: preflight.run,
    migration.FETCH: fetch.run,
    migration.PROBE: probe.run,
    migration.BACKUP: backup.run,
    migration.RE_EMBED: re_embed.run,
    migration.PROMPTS: prompts.run,
    migration.REHEARSE: rehearse.run,
    migration.CUTOVER: cutover.run,
    migration.VERIFY: verify.run,
}

_log = structlog.get_logger("sam_migrate")


class Runner:
    """One worker in this process; `interrupted` tells whether a signal asked it to leave."""

    def __init__(
        self,
        service: Service,
        locks: Locks,
        world: World,
        downloads: Downloads,
        *,
        runner: str,
        new_id: Callable[[], str],
        interrupted: Callable[[], bool],
    ) -> None:
        """Work with these."""
        self._service = service
        self._locks = locks
        self._world = world
        self._downloads = downloads
        self._runner = runner
        self._new_id = new_id
        self._attention = Attention(service, world.clock, runner, interrupted)

    def run(self, migration_id: str) -> Migration:
        """Work on the migration until it ends, waits or is stopped; return its last state.

        Raises RefusedError when it is over, LockedError when a living process works here, OpenRunError when
        another run is open. A cancel ends the run; a pause or signal leaves it open and raises StopRequested.
        """
        with self._locks.hold(LOCK):
            state = self._service.migration(migration_id)
            self._refuse_others(migration_id)
            state = self._service.handle(state, commands.Claim(runner=self._runner, pid=os.getpid()))
            return self._guarded(state)

    def pull(self, model_id: str) -> VerifiedModel:
        """Bring a model of the catalog into the library, by itself; the same way a migration does.

        Raises UnknownEngineError, FailedError with the download's reason, WaitingError, StopRequested.
        """
        entry = self._world.host.catalog().get(model_id)
        if entry is None:
            raise UnknownEngineError(
                f"'{model_id}' is not in the model catalog", hint="`sam-migrate models list` shows the models."
            )
        self._world.observer.started("fetch", f"bringing {entry.display_name}")
        there = self._downloads.here(entry, self._attention)
        if there is not None:
            return there
        run = self._downloads.under_way(model_id) or self._downloads.request(entry, "user")
        return self._ended(self._downloads.drive(run, self._attention))

    def cancel(self, migration_id: str) -> Migration:
        """Ask for the end of the migration; end it here when its worker is dead. Refused past the commit."""
        state = self._service.handle(self._service.migration(migration_id), commands.RequestCancel())
        deadline = self._world.clock.monotonic() + OBEY_SECONDS
        while state.state in lifecycle.UNCOMMITTED:
            try:
                with self._locks.hold(LOCK):
                    return self._cancelled(self._service.reload(state))
            except LockedError as error:
                if self._world.clock.monotonic() > deadline:
                    raise LockedError(migration_id, error.pid) from error
            self._world.clock.pause(0.1)
            state = self._service.reload(state)
        return state

    def collect(self) -> list[str]:
        """Remove the generations nobody reaches; return their ids. Refused while a run is open: it is building one."""
        with self._locks.hold(LOCK):
            self._refuse_others(None)
            return retire.collect(self._world, self._service.home())

    def _refuse_others(self, migration_id: str | None) -> None:
        for head in self._service.store.stream_heads(category="migration", statuses=("in_progress",)):
            other = codec.decode_summary(head.summary or "{}").run_id
            if other != migration_id:
                raise OpenRunError(
                    f"{other} is open and nobody works on it",
                    hint=f"Resume it with `sam-migrate resume {other}`, or `sam-migrate cancel {other}`.",
                )

    def _guarded(self, state: Migration) -> Migration:
        """Run the loop; every way it can end is written down."""
        heed = self._attention.watching(state)
        try:
            if state.state == lifecycle.PENDING:
                state = self._service.handle(state, self._beginning(state), runner=self._runner)
            while (step := migration.next_step(state)) is not None:
                heed()
                state = self._advance(state, step, heed)
            return self._settled(state)
        except StopRequested as stop:
            state = self._service.reload(state)
            if stop.request == "cancel":
                return self._cancelled(state)
            self._service.handle(state, commands.Stop(request=stop.request), runner=self._runner)
            raise StopRequested(stop.request, state.migration_id) from stop
        except WaitingError as waiting:
            waited = events.RunWaited(waiting_for=waiting.waiting_for, message=waiting.message, hint=waiting.hint)
            return self._service.handle(state, waited, runner=self._runner)
        except OSError as error:
            waited = events.RunWaited(waiting_for="io", message=f"{type(error).__name__}: {error}")
            return self._service.handle(state, waited, runner=self._runner)
        except BadFileError as error:
            waited = events.RunWaited(waiting_for="file", message=error.message, hint=error.hint)
            return self._service.handle(state, waited, runner=self._runner)
        except LockedError:
            raise
        except SamMigrateError as error:
            return self._settled(self._handle(state, commands.Fail(reason=error.message, exit_code=error.exit_code)))

    def _settled(self, state: Migration) -> Migration:
        """Where a failure was found before the commit: remove what the run staged, then let it be the end."""
        if state.failing is None or state.state not in lifecycle.UNCOMMITTED:
            return state
        retire.discard(self._world, state)
        found = state.failing
        return self._handle(state, commands.Fail(reason=found.reason, exit_code=found.exit_code))

    def _advance(self, state: Migration, step: str, heed: Attention) -> Migration:
        state = self._handle(state, commands.BeginStep(step=step))
        if migration.next_step(state) != step:
            return state
        if state.return_requested and state.state == lifecycle.COMMITTED:
            verify.back(self._work(state, heed), "the user asked to go back")
            return self._service.reload(state)
        self._world.observer.started(step, _SENTENCES[step])
        if step == migration.RETIRE:
            state = self._handle(state, commands.Complete())
            self._retire()
            return state
        event = _PERFORM[step](self._work(state, heed))
        state = self._service.reload(state) if event is None else self._handle(state, event)
        _log.info("step", run=state.migration_id, step=step, state=state.state)
        return state

    def _handle(self, state: Migration, command: commands.Command | events.Event) -> Migration:
        return self._service.handle(state, command, runner=self._runner)

    def _work(self, state: Migration, heed: Attention) -> Work:
        return Work(
            state=state,
            home=self._service.home(),
            world=self._world,
            heed=heed,
            record=lambda event: self._handle(state, event),
            commit=lambda event, captured: self._commit(state, event, captured),
            obtain=lambda entry, sha256: self._obtain(state, entry, sha256, heed),
            log_head=self._log_head,
        )

    def _log_head(self) -> tuple[int, str]:
        head = self._service.store.head()
        return head.position, head.hash

    def _commit(self, state: Migration, event: events.Event, captured: tuple[Generation, ...]) -> Migration:
        """Move the pointer: the event into the run's stream and its generation into `home`, in one append."""
        if not isinstance(event, events.GenerationCommitted | events.GenerationReturned):
            raise TypeError(event)
        moved = [
            events.GenerationCommitted(generation=generation, reason="captured", changes=()) for generation in captured
        ]
        reason = event.reason if isinstance(event, events.GenerationCommitted) else "return"
        moved.append(events.GenerationCommitted(generation=event.generation, reason=reason, changes=event.changes))
        uncommitted = state.state in lifecycle.UNCOMMITTED
        expected = state.begun.home_version if uncommitted else self._service.home().version
        return self._service.handle(state, event, runner=self._runner, home=(expected, moved))

    def _beginning(self, state: Migration) -> events.MigrationStarted:
        """Find what serves now, and name the generation to come."""
        home = self._service.home()
        suffix = self._new_id()
        serving = home.active.engine.engine_id if home.active else self._configured()
        return events.MigrationStarted(
            from_engine=serving if state.required.from_engine == "current" else state.required.from_engine,
            generation_id=f"g{home.version + (1 if home.active else 2)}-{suffix}",
            capture_id=None if home.active else f"g1-{suffix}",
            base=home.active.generation_id if home.active else None,
            home_version=home.version,
        )

    def _configured(self) -> str:
        try:
            return self._world.host.served_engine().engine_id
        except BadFileError:
            return "unknown"

    def _obtain(self, state: Migration, entry: CatalogEntry, sha256: str | None, heed: Attention) -> VerifiedModel:
        """Bring a model into the library: it is there, or a download under way is joined, or one is started."""
        there = self._downloads.here(entry, heed)
        if there is not None and sha256 in (None, there.sha256):
            return there
        run = self._downloads.under_way(entry.model_id)
        started = run is None
        if run is None:
            run = self._downloads.request(entry, state.migration_id)
        elif run.download_id == state.download_id:
            started = state.download_started
        if state.download_id != run.download_id or run.done_bytes > state.download_bytes:
            joined = events.DownloadJoined(download_id=run.download_id, started=started, done_bytes=run.done_bytes)
            self._handle(state, joined)
        model = self._ended(self._downloads.drive(run, heed))
        if sha256 not in (None, model.sha256):
            raise FailedError(f"the Hub no longer has the {entry.filename} this generation was made with")
        return model

    def _ended(self, run: Download) -> VerifiedModel:
        if run.state != lifecycle.COMPLETED or run.path is None or run.sha256 is None:
            raise FailedError(run.error or f"{run.download_id} was cancelled")
        return VerifiedModel(path=self._world.absolute(run.path), sha256=run.sha256, size_bytes=run.total_bytes)

    def _cancelled(self, state: Migration) -> Migration:
        """End an uncommitted run: its own download, what it staged, then the event."""
        if state.state not in lifecycle.UNCOMMITTED:
            return state
        if state.download_id and state.download_started:
            run = self._service.download(state.download_id)
            if run.state in lifecycle.UNCOMMITTED:
                # Verified this very moment by another process: then it is a model in the library, and stays.
                with suppress(RefusedError):
                    self._downloads.cancel(run)
        retire.discard(self._world, state)
        return self._service.handle(state, commands.Stop(request="cancel"))

    def _retire(self) -> None:
        try:
            retire.collect(self._world, self._service.home())
        except (SamMigrateError, OSError) as error:
            self._world.observer.noted(f"left for `gc`: {error}")
