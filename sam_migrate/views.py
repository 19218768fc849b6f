"""Read models: what lists, status pages and scripts are shown, from the summaries beside the log."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from sam_migrate import codec
from sam_migrate.domain import events
from sam_migrate.errors import UnknownRunError

if TYPE_CHECKING:
    from collections.abc import Iterator

    from event_store.records import StreamHead
    from event_store.store import EventStore
    from sam_migrate.codec import RunSummary
    from sam_migrate.domain.events import ModelRecorded
    from sam_migrate.service import Service
    from sam_migrate.steps.world import World


def migrations(store: EventStore, *, statuses: tuple[str, ...] | None = None) -> list[RunSummary]:
    """List the migrations, oldest first."""
    return [_summary(head) for head in store.stream_heads(category="migration", statuses=statuses)]


def downloads(store: EventStore, *, statuses: tuple[str, ...] | None = None) -> list[RunSummary]:
    """List the downloads, oldest first."""
    return [_summary(head) for head in store.stream_heads(category="download", statuses=statuses)]


def migration(store: EventStore, migration_id: str) -> RunSummary:
    """Return one migration; raise UnknownRunError. A fetch shows how far its download is."""
    head = store.stream_head(f"migration-{migration_id}")
    if head is None:
        raise UnknownRunError(f"no migration {migration_id}", hint="`sam-migrate status` lists them.")
    return _summary(head)


def interrupted(store: EventStore) -> list[RunSummary]:
    """List the open migrations that `resume` would go on with."""
    return [run for run in migrations(store, statuses=("in_progress",)) if not run.paused]


def status_object(store: EventStore, run: RunSummary) -> dict[str, Any]:
    """Return a migration as scripts read it: every field of MigrationPlan under its name, and what we add."""
    return {
        **run.details,
        "status": run.status,
        "progress_percentage": _progress(store, run),
        "error_message": run.error_message,
        "paused": run.paused,
        "waiting_for": run.waiting_for,
        "message": run.message,
        "exit_code": exit_code(run),
        "rolled_back_by": _rolled_back_by(store, run),
    }


def serving(store: EventStore) -> dict[str, Any] | None:
    """Return the serving generation's id, engine and embedder; None where nothing was ever migrated."""
    head = store.stream_head("home")
    if head is None:
        return None
    for event in codec.decode_all(store.read("home", after_version=head.version - 1)):
        if isinstance(event, events.GenerationCommitted):
            generation = event.generation
            return {
                "generation_id": generation.generation_id,
                "engine_id": generation.engine.engine_id,
                "embedder": generation.embedder.identity,
                "dimension": generation.embedder.dimension,
                "base": generation.base,
                "derived_from": generation.derived_from,
            }
    return None


def models(service: Service, world: World) -> list[dict[str, Any]]:
    """List the catalog's models with their status, as the API names it; sizes in bytes."""
    library = service.library()
    under_way = {run.details["model_id"] for run in downloads(service.store, statuses=("pending", "in_progress"))}
    return [
        {
            "model_id": entry.model_id,
            "display_name": entry.display_name,
            "model_family": entry.model_family,
            "filename": entry.filename,
            "file_size": entry.file_size,
            "quantization": entry.quantization,
            "status": _model_status(world, library.get(entry.model_id), entry.model_id in under_way),
        }
        for entry in world.host.catalog().values()
    ]


def _model_status(world: World, recorded: ModelRecorded | None, under_way: bool) -> str:  # noqa: FBT001 - private
    if under_way:
        return "downloading"
    if recorded is None:
        return "not_downloaded"
    path = world.absolute(recorded.path)
    if not path.exists():
        return "missing"
    return "downloaded" if path.stat().st_size == recorded.size_bytes else "corrupted"


def exit_code(run: RunSummary) -> int:
    """Return the exit status that tells how the run stands."""
    if run.status == "completed":
        return 0
    if run.status == "cancelled":
        return 8
    if run.status == "failed":
        return run.exit_code
    return 10 if run.status == "in_progress" else 0


def log(store: EventStore, run_id: str | None = None) -> Iterator[dict[str, Any]]:
    """Yield the records, of one run or of all, as plain objects."""
    records = store.read_all() if run_id is None else store.read(_stream_of(store, run_id))
    for record in records:
        yield {
            "position": record.position,
            "stream": record.stream,
            "version": record.version,
            "type": record.type,
            "recorded_at": record.recorded_at.isoformat(),
            "data": record.payload,
            "hash": record.hash,
        }


def _stream_of(store: EventStore, run_id: str) -> str:
    for stream in (f"migration-{run_id}", f"download-{run_id}", run_id):
        if store.stream_head(stream) is not None:
            return stream
    raise UnknownRunError(f"no run {run_id}", hint="`sam-migrate status` lists the migrations.")


def _summary(head: StreamHead) -> RunSummary:
    return codec.decode_summary(head.summary or "")


def _progress(store: EventStore, run: RunSummary) -> float:
    """Return the percentage; while the model is being fetched, its download's share is part of it."""
    download = run.details.get("download")
    if run.status != "in_progress" or run.details["current_step"] != "fetch" or not download:
        return run.progress_percentage
    head = store.stream_head(f"download-{download}")
    share = _summary(head).progress_percentage / 100.0 if head else 0.0
    return round(min(99.0, run.progress_percentage + share * float(run.details["step_percentage"])), 2)


def _rolled_back_by(store: EventStore, run: RunSummary) -> str | None:
    base = run.details.get("base")
    if run.status != "completed" or base is None:
        return None
    for other in migrations(store, statuses=("completed",)):
        if other.details["target"] == base and other.created_at > run.created_at:
            return other.run_id
    return None
