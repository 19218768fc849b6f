"""The log, the fold and the disk compared: every difference is named, nothing is changed."""

from __future__ import annotations

from dataclasses import dataclass
from itertools import islice
from typing import TYPE_CHECKING, Final

from sam_migrate import codec
from sam_migrate.domain import download, events, migration
from sam_migrate.domain.generation import Home, commit
from sam_migrate.errors import SamMigrateError
from sam_migrate.service import HOME_STREAM, LIBRARY_STREAM
from sam_migrate.steps import projection
from sam_migrate.steps.retire import KEPT_PREVIOUS

if TYPE_CHECKING:
    from event_store.records import StoredEvent
    from event_store.store import EventStore
    from sam_migrate.domain.download import Download
    from sam_migrate.domain.migration import Migration
    from sam_migrate.steps.world import World

PROBLEMS_MAX: Final = 1000


@dataclass(frozen=True, slots=True, kw_only=True)
class Problem:
    """One difference: its kind (`chain`, `replay`, `derived`, `disk`), where it is and what it is."""

    kind: str
    where: str
    what: str


@dataclass(frozen=True, slots=True, kw_only=True)
class Report:
    """What an audit found; `drift` are fields of ours that SAM or the user changed since, which is their right."""

    events: int
    head: str
    problems: tuple[Problem, ...]
    drift: tuple[str, ...]

    @property
    def ok(self) -> bool:
        """Tell whether the log, its fold and the disk agree."""
        return not self.problems


class _Replay:
    """Every stream folded as its records come by."""

    def __init__(self) -> None:
        self.migrations: dict[str, Migration] = {}
        self.downloads: dict[str, Download] = {}
        self.library: dict[str, events.ModelRecorded] = {}
        self.home = Home()
        self.problems: list[Problem] = []
        self.broken: set[str] = set()

    def feed(self, record: StoredEvent) -> None:
        if record.stream in self.broken:
            return
        try:
            self._fold(record.stream, codec.decode(record))
        except SamMigrateError as error:
            self.broken.add(record.stream)
            where = f"{record.stream} version {record.version}"
            self.problems.append(Problem(kind="replay", where=where, what=error.message))

    def _fold(self, stream: str, event: events.Event) -> None:
        category, _, _ = stream.partition("-")
        if category == "migration":
            state = self.migrations.get(stream, migration.Migration())
            self.migrations[stream] = migration.evolve(state, event)
        elif category == "download":
            self.downloads[stream] = download.evolve(self.downloads.get(stream, download.Download()), event)
        elif stream == HOME_STREAM and isinstance(event, events.GenerationCommitted):
            self.home = commit(self.home, event.generation)
        elif stream == LIBRARY_STREAM and isinstance(event, events.ModelRecorded):
            self.library[event.model_id] = event
        else:
            raise SamMigrateError(f"a {type(event).__name__} does not belong into this stream")


def verify(store: EventStore, world: World, *, deep: bool = False, head: str | None = None) -> Report:
    """Check the chain, replay every stream, compare the derived rows and the disk; `deep` reads every byte.

    `head` is a digest kept elsewhere that must still be in the chain.
    """
    problems = [
        Problem(kind=found.kind, where=found.where, what=found.what) for found in islice(store.verify(), PROBLEMS_MAX)
    ]
    replay = _Replay()
    seen = head is None
    if not any(problem.kind == "chain" for problem in problems):
        for record in store.read_all():
            seen = seen or record.hash == head
            replay.feed(record)
        if not seen:
            problems.append(
                Problem(kind="chain", where="head", what=f"{head} is not in this log: its tail was cut off")
            )
    problems += replay.problems or _pointer(replay)
    problems += _derived(store, replay)
    problems += _disk(store, world, replay, deep=deep)
    log = store.head()
    return Report(
        events=log.position, head=log.hash, problems=tuple(problems[:PROBLEMS_MAX]), drift=_drift(world, replay.home)
    )


def _pointer(replay: _Replay) -> list[Problem]:
    """Compare the pointer's stream with the commits in the runs' own: each was one append to both."""
    moves = [move for run in replay.migrations.values() for move in (run.committed, run.returned) if move is not None]
    made = {move.generation.generation_id for move in moves}
    served = {generation.generation_id for generation in replay.home.generations if generation.base is not None}
    return [
        Problem(kind="replay", where=f"generation {generation_id}", what="is only in one of its two streams")
        for generation_id in sorted(made ^ served)
    ]


def _derived(store: EventStore, replay: _Replay) -> list[Problem]:
    problems = []
    runs: dict[str, Migration | Download] = {**replay.migrations, **replay.downloads}
    for stream, run in runs.items():
        if stream in replay.broken:
            continue
        row = store.stream_head(stream)
        if row is None or (row.status, row.summary) != codec.encode_summary(run):
            problems.append(Problem(kind="derived", where=stream, what="its row in the run list is not its fold"))
    return problems


def _disk(store: EventStore, world: World, replay: _Replay, *, deep: bool) -> list[Problem]:
    problems = []
    for generation in replay.home.kept(KEPT_PREVIOUS):
        where = f"generation {generation.generation_id}"
        found = world.generations.problems(generation, deep=deep)
        problems += [Problem(kind="disk", where=where, what=what) for what in found]
    position = store.head().position
    for generation_id in world.generations.ids():
        manifest = world.generations.manifest(generation_id)
        if manifest is not None and manifest.position > position:
            what = f"was made at event {manifest.position}, the log ends at {position}: it is an old copy"
            problems.append(Problem(kind="disk", where=f"generation {generation_id}", what=what))
    for recorded in replay.library.values():
        problems += _model(world, recorded, deep=deep)
    for run in replay.migrations.values():
        if run.backup is not None and run.state == "completed":
            found = world.backups.problems(run.migration_id, manifest_sha256=run.backup.manifest_sha256)
            problems += [Problem(kind="disk", where=f"backup of {run.migration_id}", what=what) for what in found]
    return problems


def _model(world: World, recorded: events.ModelRecorded, *, deep: bool) -> list[Problem]:
    path = world.absolute(recorded.path)
    where = f"model {recorded.model_id}"
    if not path.exists():
        return [Problem(kind="disk", where=where, what=f"{recorded.path} is gone")]
    if path.stat().st_size != recorded.size_bytes:
        return [Problem(kind="disk", where=where, what=f"{recorded.path} has another size than was verified")]
    if deep and world.library.digest(path, heed=lambda: None, advance=lambda _: None) != recorded.sha256:
        return [Problem(kind="disk", where=where, what=f"{recorded.path} has other bytes than were verified")]
    return []


def _drift(world: World, home: Home) -> tuple[str, ...]:
    if home.active is None:
        return ()
    try:
        return tuple(projection.drift(world, home.active))
    except (SamMigrateError, OSError) as error:
        return (f"SAM's files could not be compared: {error}",)
