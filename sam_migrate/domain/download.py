"""A download as the fold of its events: decide, evolve, next_step. Pure."""

from __future__ import annotations

from dataclasses import dataclass, field, replace
from typing import TYPE_CHECKING, Final

from sam_migrate.domain import commands, control, events, lifecycle
from sam_migrate.domain.control import Control
from sam_migrate.errors import IllegalTransitionError, IntegrityError

if TYPE_CHECKING:
    from collections.abc import Iterable

    from sam_migrate.domain.engine import CatalogEntry

RESOLVE: Final = "resolve"
TRANSFER: Final = "transfer"
PUBLISH: Final = "publish"


@dataclass(frozen=True, slots=True, kw_only=True)
class Download:
    """A download's state; `segments` are the durable ranges in order, bytes outside them count for nothing."""

    download_id: str = ""
    state: str = lifecycle.NEW
    version: int = 0
    entry: CatalogEntry | None = None
    requested_by: str = ""
    requested_at: str = ""
    remote: events.DownloadStarted | None = None
    segments: tuple[events.SegmentStored, ...] = ()
    sha256: str | None = None
    path: str | None = None
    error: str | None = None
    exit_code: int = 0
    control: Control = field(default_factory=Control)

    @property
    def run_id(self) -> str:
        """Return the id, whatever the kind of run."""
        return self.download_id

    @property
    def status(self) -> lifecycle.Status:
        """Return the public status."""
        return lifecycle.status(self.state)

    @property
    def total_bytes(self) -> int:
        """Return the size to come: the Hub's once it is known, the catalog's estimate before."""
        if self.remote is not None:
            return self.remote.size_bytes
        return self.entry.file_size if self.entry else 0

    @property
    def done_bytes(self) -> int:
        """Return how many bytes are durable and accounted for."""
        return sum(segment.end - segment.start for segment in self.segments)


def fold(history: Iterable[events.Event], state: Download | None = None) -> Download:
    """Fold a history; raise IllegalTransitionError where no download could have gone that way."""
    state = state or Download()
    for event in history:
        state = evolve(state, event)
    return state


def evolve(state: Download, event: events.Event) -> Download:
    """Fold one event, through the machine first."""
    after = lifecycle.advance(state.state, event.trigger)
    state = replace(state, state=after, version=state.version + 1, control=control.evolve(state.control, event))
    match event:
        case events.DownloadRequested():
            return replace(
                state,
                download_id=event.download_id,
                entry=event.entry,
                requested_by=event.requested_by,
                requested_at=event.requested_at,
            )
        case events.DownloadStarted():
            return replace(state, remote=event)
        case events.SegmentStored():
            return replace(state, segments=_stored(state.segments, event))
        case events.DownloadVerified():
            return replace(state, sha256=event.sha256)
        case events.DownloadCompleted():
            return replace(state, path=event.path)
        case events.DownloadFailed():
            return replace(state, error=event.reason, exit_code=event.exit_code)
        case _ if not isinstance(event, (events.DownloadCancelled, *control.EVENTS)):
            raise IllegalTransitionError(state.state, type(event).__name__)
    return state


def _stored(segments: tuple[events.SegmentStored, ...], new: events.SegmentStored) -> tuple[events.SegmentStored, ...]:
    """Add a segment; those it overlaps were damaged and are superseded."""
    if not segments or segments[-1].end <= new.start:
        return (*segments, new)
    kept = [old for old in segments if old.end <= new.start or old.start >= new.end]
    return tuple(sorted((*kept, new), key=lambda segment: segment.start))


def next_step(state: Download) -> str | None:
    """Return what the world still owes: `resolve`, `transfer`, `publish`, or None."""
    if state.state == lifecycle.PENDING:
        return RESOLVE
    if state.state == lifecycle.PREPARING:
        return TRANSFER
    return PUBLISH if state.state == lifecycle.COMMITTED else None


def decide(state: Download, command: commands.Command | events.Event) -> tuple[events.Event, ...]:
    """Judge a command or what a step measured; refuse what the state does not allow."""
    match command:
        case commands.Stop(request="cancel"):
            return (events.DownloadCancelled(),)
        case commands.Fail():
            if state.state == lifecycle.COMMITTED:
                return (events.RunWaited(waiting_for="error", message=command.reason),)
            return (events.DownloadFailed(reason=command.reason, exit_code=command.exit_code),)
        case events.DownloadVerified():
            return (_judge_digest(state, command),)
        case events.Event():
            return (command,)
    return control.decide(state.state, state.control, command, state.download_id)


def _judge_digest(state: Download, verified: events.DownloadVerified) -> events.Event:
    if state.remote is None:
        raise IntegrityError(f"{state.download_id} was verified before it was started")
    if verified.sha256 == state.remote.sha256:
        return verified
    return events.DownloadFailed(
        reason=f"{state.remote.filename}: the bytes have SHA-256 {verified.sha256[:16]}, "
        f"the Hub announced {state.remote.sha256[:16]}; nothing was installed"
    )
