"""What a download does to the world: pin the file, bring its bytes, give it its name."""

from __future__ import annotations

from typing import TYPE_CHECKING

from sam_migrate.domain import events
from sam_migrate.errors import IntegrityError, UnknownEngineError, WaitingError
from sam_migrate.ports import RemoteFile, Segment

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path

    from sam_migrate import ports
    from sam_migrate.domain.download import Download
    from sam_migrate.domain.engine import CatalogEntry
    from sam_migrate.steps.world import World

RESERVE_BYTES = 64 * 1024 * 1024
"""What a download leaves free on the disk for everybody else."""


def filename(entry: CatalogEntry) -> str:
    """Return the file the entry names; raise UnknownEngineError where it means a whole repository."""
    if entry.filename is None:
        raise UnknownEngineError(
            f"{entry.model_id}: its catalog entry has no file name (it stands for the whole repository "
            f"{entry.huggingface_repo}), so there is no single GGUF file to fetch",
            hint="Choose an engine whose entry names a .gguf file, or complete the entry in model_catalog.json.",
        )
    return entry.filename


def resolve(world: World, state: Download) -> events.DownloadStarted:
    """Pin commit, size and digest of the file; refuse at once what does not fit on the disk."""
    entry = _entry(state)
    name = filename(entry)
    world.library.path(entry.model_id, name)
    remote = world.hub.resolve(entry.huggingface_repo, name, revision=None)
    there = _size(world.library.partial(remote.sha256))
    free = world.disk.free_bytes(world.models_dir)
    missing = remote.size_bytes - there + RESERVE_BYTES - free
    if missing > 0:
        raise WaitingError(
            "space",
            f"{name} needs {remote.size_bytes - there:,} bytes, {missing:,} more than {world.models_dir} can give",
            hint="Free some space, then resume.",
        )
    return events.DownloadStarted(
        repository=remote.repository,
        filename=remote.filename,
        commit=remote.commit,
        size_bytes=remote.size_bytes,
        sha256=remote.sha256,
        url=remote.url,
    )


def transfer(
    world: World, state: Download, *, record: Callable[[events.Event], object], heed: ports.Heed
) -> events.DownloadVerified:
    """Bring the bytes that are not there yet; every durable stretch of them is an event."""
    started = _started(state)
    remote = RemoteFile(
        repository=started.repository,
        filename=started.filename,
        commit=started.commit,
        size_bytes=started.size_bytes,
        sha256=started.sha256,
        url=started.url,
    )
    done = 0

    def checkpoint(segment: Segment) -> None:
        record(events.SegmentStored(start=segment.start, end=segment.end, sha256=segment.sha256))

    def advance(count: int) -> None:
        nonlocal done
        done += count
        world.observer.progressed(done=done, total=remote.size_bytes, unit="bytes")

    segments = tuple(Segment(start=s.start, end=s.end, sha256=s.sha256) for s in state.segments)
    partial = world.library.partial(remote.sha256)
    sha256 = world.transfer.fetch(remote, partial, segments=segments, checkpoint=checkpoint, heed=heed, advance=advance)
    if sha256 != remote.sha256:
        partial.unlink(missing_ok=True)
    return events.DownloadVerified(sha256=sha256)


def publish(world: World, state: Download) -> tuple[events.DownloadCompleted, events.ModelRecorded]:
    """Give the verified file its name, and enter it in SAM's list of downloaded models."""
    entry, started = _entry(state), _started(state)
    path = world.library.publish(world.library.partial(started.sha256), entry.model_id, filename(entry))
    now = world.clock.now()
    world.host.add_downloaded(
        entry, path, at=now.astimezone().replace(tzinfo=None), size_bytes=started.size_bytes, sha256=started.sha256
    )
    recorded = events.ModelRecorded(
        model_id=entry.model_id,
        path=world.relative(path),
        size_bytes=started.size_bytes,
        sha256=started.sha256,
        entry=entry,
        recorded_at=now.isoformat(),
    )
    return events.DownloadCompleted(path=world.relative(path)), recorded


def _entry(state: Download) -> CatalogEntry:
    if state.entry is None:
        raise IntegrityError(f"{state.download_id} names no model")
    return state.entry


def _started(state: Download) -> events.DownloadStarted:
    if state.remote is None:
        raise IntegrityError(f"{state.download_id} was never started")
    return state.remote


def _size(path: Path) -> int:
    return path.stat().st_size if path.exists() else 0
