"""Load, decide, append: the one way events get into the log, with a bounded retry on a version conflict."""

from __future__ import annotations

from typing import TYPE_CHECKING, Final, overload

import structlog

from event_store.errors import ConcurrencyError, StoreBusyError, StoreError, StoreFullError
from event_store.records import Batch
from sam_migrate import codec
from sam_migrate.domain import download, events, migration
from sam_migrate.domain.download import Download
from sam_migrate.domain.generation import Home, commit
from sam_migrate.domain.migration import Migration
from sam_migrate.errors import FailedError, LockedError, SamMigrateError, UnknownRunError, WaitingError

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    from event_store.store import EventStore
    from sam_migrate.domain.commands import Command

CONFLICTS_MAX: Final = 20
"""Every conflict means that somebody else got on; twenty in a row mean a bug."""

HOME_STREAM: Final = "home"
LIBRARY_STREAM: Final = "library"

Decided = tuple[events.Event, ...]

_log = structlog.get_logger("sam_migrate")


class Service:
    """The write side of the log, for one process; `new_id` makes event ids that never collide."""

    def __init__(self, store: EventStore, *, new_id: Callable[[], str]) -> None:
        """Work on this log."""
        self.store = store
        self._new_id = new_id
        self._migrations: dict[str, Migration] = {}
        self._downloads: dict[str, Download] = {}

    def migration(self, migration_id: str) -> Migration:
        """Fold the migration as the log has it now; raise UnknownRunError."""
        state = self._migrations.get(migration_id, Migration())
        records = self.store.read(_stream("migration", migration_id), after_version=state.version)
        state = migration.fold(codec.decode_all(records), state)
        if state.plan is None:
            raise UnknownRunError(f"no migration {migration_id}", hint="`sam-migrate status` lists them.")
        self._migrations[migration_id] = state
        return state

    def download(self, download_id: str) -> Download:
        """Fold the download as the log has it now; raise UnknownRunError."""
        state = self._downloads.get(download_id, Download())
        records = self.store.read(_stream("download", download_id), after_version=state.version)
        state = download.fold(codec.decode_all(records), state)
        if state.entry is None:
            raise UnknownRunError(f"no download {download_id}", hint="`sam-migrate models list` shows the models.")
        self._downloads[download_id] = state
        return state

    def home(self) -> Home:
        """Fold the pointer's stream."""
        home = Home()
        for event in codec.decode_all(self.store.read(HOME_STREAM)):
            if isinstance(event, events.GenerationCommitted):
                home = commit(home, event.generation)
        return home

    def library(self) -> dict[str, events.ModelRecorded]:
        """Fold the library's stream: the newest record of every model id."""
        models: dict[str, events.ModelRecorded] = {}
        for event in codec.decode_all(self.store.read(LIBRARY_STREAM)):
            if isinstance(event, events.ModelRecorded):
                models[event.model_id] = event
        return models

    def plan(self, planned: events.MigrationPlanned, overrides: Sequence[events.CheckOverridden] = ()) -> Migration:
        """Create a PENDING migration."""
        decided = (planned, *overrides)
        state = migration.fold(decided)
        self._append(self._batch(state, decided, 0))
        self._migrations[planned.migration_id] = state
        return state

    def request_download(self, requested: events.DownloadRequested) -> Download:
        """Create a PENDING download."""
        state = download.fold((requested,))
        self._append(self._batch(state, (requested,), 0))
        self._downloads[requested.download_id] = state
        return state

    @overload
    def handle(
        self,
        run: Migration,
        command: Command | events.Event,
        *,
        runner: str | None = ...,
        home: tuple[int, Sequence[events.GenerationCommitted]] | None = ...,
    ) -> Migration: ...

    @overload
    def handle(
        self,
        run: Download,
        command: Command | events.Event,
        *,
        runner: str | None = ...,
        library: events.ModelRecorded | None = ...,
    ) -> Download: ...

    def handle(
        self,
        run: Migration | Download,
        command: Command | events.Event,
        *,
        runner: str | None = None,
        home: tuple[int, Sequence[events.GenerationCommitted]] | None = None,
        library: events.ModelRecorded | None = None,
    ) -> Migration | Download:
        """Let the run's state decide on the command and append what it decides, in one transaction with its company.

        `runner` is the worker that must still hold the claim. `home` is (expected version, events) for the
        pointer's stream, `library` an event for the library's. Raises LockedError when another worker claimed
        the run meanwhile.
        """
        for _ in range(CONFLICTS_MAX):
            state: Migration | Download = self.reload(run)
            if runner is not None and state.control.runner not in (None, runner):
                raise LockedError(state.run_id, state.control.pid)
            decided = _decide(state, command)
            if not decided:
                return state
            after = _fold(state, decided)
            try:
                self._append(self._batch(after, decided, state.version), *self._company(home, library))
            except ConcurrencyError as error:
                if error.stream == HOME_STREAM:
                    raise FailedError(
                        "another run moved the pointer meanwhile", hint="Plan the upgrade again on what serves now."
                    ) from error
                continue
            self._remember(after)
            return after
        raise SamMigrateError(f"{run.run_id}: {CONFLICTS_MAX} version conflicts in a row")

    @overload
    def reload(self, run: Migration) -> Migration: ...

    @overload
    def reload(self, run: Download) -> Download: ...

    @overload
    def reload(self, run: Migration | Download) -> Migration | Download: ...

    def reload(self, run: Migration | Download) -> Migration | Download:
        """Fold what was appended to the run since."""
        return self.download(run.run_id) if isinstance(run, Download) else self.migration(run.run_id)

    def _company(
        self,
        home: tuple[int, Sequence[events.GenerationCommitted]] | None,
        library: events.ModelRecorded | None,
    ) -> list[Batch]:
        batches = []
        if home is not None:
            version, moved = home
            batches.append(self._facts(HOME_STREAM, moved, version))
        if library is not None:
            head = self.store.stream_head(LIBRARY_STREAM)
            batches.append(self._facts(LIBRARY_STREAM, (library,), head.version if head else 0))
        return batches

    def _facts(self, stream: str, facts: Sequence[events.Event], expected_version: int) -> Batch:
        records = tuple(codec.encode(event, self._new_id()) for event in facts)
        return Batch(stream=stream, events=records, expected_version=expected_version)

    def _batch(self, after: Migration | Download, decided: Decided, expected_version: int) -> Batch:
        kind = "download" if isinstance(after, Download) else "migration"
        status, summary = codec.encode_summary(after)
        return Batch(
            stream=_stream(kind, after.run_id),
            events=tuple(codec.encode(event, self._new_id()) for event in decided),
            expected_version=expected_version,
            status=status,
            summary=summary,
        )

    def _append(self, *batches: Batch) -> None:
        try:
            appended = self.store.append(*batches)
        except StoreFullError as error:
            raise WaitingError(
                "space", f"the log cannot grow: {error}", hint="Free some space, then resume."
            ) from error
        except (StoreBusyError, StoreError) as error:
            raise WaitingError(
                "io", f"the log cannot be written: {error}", hint="Mend the cause, then resume."
            ) from error
        for record in appended.records:
            _log.debug("appended", position=record.position, stream=record.stream, type=record.type)

    def _remember(self, run: Migration | Download) -> None:
        if isinstance(run, Download):
            self._downloads[run.download_id] = run
        else:
            self._migrations[run.migration_id] = run


def _stream(kind: str, run_id: str) -> str:
    return f"{kind}-{run_id}"


def _decide(state: Migration | Download, command: Command | events.Event) -> Decided:
    return download.decide(state, command) if isinstance(state, Download) else migration.decide(state, command)


def _fold(state: Migration | Download, decided: Decided) -> Migration | Download:
    return download.fold(decided, state) if isinstance(state, Download) else migration.fold(decided, state)
