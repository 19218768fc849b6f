"""Domain events and stored records, and the one-row summary of a run that lists and status pages read."""

from __future__ import annotations

import inspect
import json
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, Final, TypeVar

import msgspec

from event_store.records import NewEvent
from sam_migrate.domain import events, migration
from sam_migrate.domain.download import Download
from sam_migrate.errors import IntegrityError

if TYPE_CHECKING:
    from collections.abc import Iterable

    from event_store.records import StoredEvent
    from sam_migrate.domain.migration import Migration

T = TypeVar("T")

SCHEMA: Final = 1

_CLASSES: Final[dict[str, type[events.Event]]] = {
    name: cls
    for name, cls in inspect.getmembers(events, inspect.isclass)
    if issubclass(cls, events.Event) and cls is not events.Event
}
_DECODERS: Final = {name: msgspec.json.Decoder(cls) for name, cls in _CLASSES.items()}
_ENCODER: Final = msgspec.json.Encoder()


def encode(event: events.Event, event_id: str) -> NewEvent:
    """Turn a domain event into a record to be."""
    payload = _encode(event)
    return NewEvent(event_id=event_id, type=type(event).__name__, schema=SCHEMA, payload=payload)


def decode(record: StoredEvent) -> events.Event:
    """Turn a record back into its domain event; raise IntegrityError where this version cannot read it."""
    decoder = _DECODERS.get(record.type)
    if decoder is None or record.schema > SCHEMA:
        raise IntegrityError(
            f"event {record.position} is a {record.type} of schema {record.schema}, which this version does not know",
            hint="This log was written by a newer sam_migrate: upgrade it; nothing was skipped or lost.",
        )
    try:
        return _decode(decoder, record.payload)
    except (msgspec.MsgspecError, ValueError) as error:
        raise IntegrityError(f"event {record.position} ({record.type}) does not decode: {error}") from error


def _encode(thing: events.Event | RunSummary) -> str:
    try:
        return _ENCODER.encode(thing).decode()
    except UnicodeEncodeError:
        # SAM's JSON can spell lone surrogates, for which UTF-8 has no form: they stay escapes.
        return json.dumps(msgspec.to_builtins(thing))


def _decode(decoder: msgspec.json.Decoder[T], text: str) -> T:
    try:
        return decoder.decode(text)
    except msgspec.DecodeError:
        return msgspec.convert(json.loads(text), decoder.type)


def decode_all(records: Iterable[StoredEvent]) -> Iterable[events.Event]:
    """Decode one after the other, as they are read."""
    return map(decode, records)


@dataclass(frozen=True, slots=True, kw_only=True)
class RunSummary:
    """What lists show of a run; `details` are the fields of its kind under their documented names."""

    kind: str
    run_id: str
    status: str
    state: str
    created_at: str
    progress_percentage: float
    error_message: str | None
    exit_code: int
    paused: bool
    waiting_for: str | None
    message: str | None
    hint: str
    runner: str | None
    pid: int | None
    details: dict[str, Any] = field(default_factory=dict)


_SUMMARY: Final = msgspec.json.Decoder(RunSummary)


def encode_summary(run: Migration | Download) -> tuple[str, str]:
    """Return the status word and the summary of a run as stored beside its stream."""
    summary = download_summary(run) if isinstance(run, Download) else migration_summary(run)
    return summary.status, _encode(summary)


def decode_summary(text: str) -> RunSummary:
    """Read a stored summary; raise IntegrityError where it is not one."""
    try:
        return _decode(_SUMMARY, text)
    except (msgspec.MsgspecError, ValueError) as error:
        raise IntegrityError(
            f"a row of the run list does not decode: {error}", hint="`sam-migrate audit verify` says which."
        ) from error


def migration_summary(run: Migration) -> RunSummary:
    """Summarise a migration: every field of the documented MigrationPlan, and what the command line adds."""
    plan = run.required
    details: dict[str, Any] = {
        "migration_id": run.migration_id,
        "from_engine": run.started.from_engine if run.started else plan.from_engine,
        "to_engine": plan.to_engine,
        "user_id": plan.user_id,
        "created_at": plan.created_at,
        "backup_lora_adapters": plan.backup_lora_adapters,
        "re_embed_knowledge": plan.re_embed_knowledge,
        "update_prompt_templates": plan.update_prompt_templates,
        "affected_lora_adapters": list(plan.affected_lora_adapters),
        "knowledge_base_size": plan.knowledge_base_size,
        "estimated_duration_minutes": plan.estimated_duration_minutes,
        "current_step": run.current_step,
        "steps": [{"id": step, "done": step in run.done} for step in run.steps],
        "step_percentage": migration.step_span(run, run.current_step) if run.current_step in run.steps else 0.0,
        "target": plan.target,
        "retry_of": plan.retry_of,
        "generation": run.generation.generation_id if run.generation else None,
        "base": run.committed.generation.base if run.committed else None,
        "download": run.download_id,
        "kept_by_user": run.kept,
    }
    return _summary(run, plan.created_at, run.progress, details)


def download_summary(run: Download) -> RunSummary:
    """Summarise a download; sizes in bytes."""
    total = run.total_bytes
    details: dict[str, Any] = {
        "download_id": run.download_id,
        "model_id": run.entry.model_id if run.entry else "",
        "requested_by": run.requested_by,
        "downloaded_bytes": run.done_bytes,
        "total_bytes": total,
        "sha256": run.sha256 or (run.remote.sha256 if run.remote else None),
        "path": run.path,
    }
    progress = 100.0 * run.done_bytes / total if total else 0.0
    return _summary(run, run.requested_at, min(100.0, progress), details)


def _summary(run: Migration | Download, created_at: str, progress: float, details: dict[str, Any]) -> RunSummary:
    return RunSummary(
        kind="download" if isinstance(run, Download) else "migration",
        run_id=run.run_id,
        status=run.status.value,
        state=run.state,
        created_at=created_at,
        progress_percentage=progress,
        error_message=run.error,
        exit_code=run.exit_code,
        paused=run.control.paused,
        waiting_for=run.control.waiting_for,
        message=run.control.message,
        hint=run.control.hint,
        runner=run.control.runner,
        pid=run.control.pid,
        details=details,
    )
