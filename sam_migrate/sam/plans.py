"""The fields of a generation to come, over both documents: captured, planned for an upgrade, planned for going back."""

from __future__ import annotations

from dataclasses import replace
from typing import TYPE_CHECKING, Any

from sam_migrate.domain.engine import ServedEngine
from sam_migrate.ports import FieldPlan
from sam_migrate.sam import adapters as lora
from sam_migrate.sam import configuration
from sam_migrate.sam.configuration import CONFIGURATION, REGISTRY
from sam_migrate.sam.documents import get_field

if TYPE_CHECKING:
    from datetime import datetime

    from sam_migrate.domain.generation import Generation

    Document = dict[str, Any]


def served_engine(live: Document) -> ServedEngine:
    """Describe the engine the configuration names; what it does not say is empty, its digest is unknown."""

    def text(*path: str) -> str:
        content = get_field(live, path).content
        return content if isinstance(content, str) else ""

    repository, _, quantization = text("model", "transformer_model_name").removeprefix("hf.co/").partition(":")
    context = get_field(live, ("model", "max_context_length")).content
    return ServedEngine(
        engine_id=text("engine_upgrade", "active_engine_id") or repository or "unknown",
        model_name=text("engine_upgrade", "engine_model_name") or repository or "unknown",
        family=text("engine_upgrade", "engine_family"),
        repository=repository,
        filename=text("engine_upgrade", "local_model_path").rpartition("/")[2],
        quantization=quantization,
        sha256=None,
        size_bytes=0,
        context_length=context if isinstance(context, int) else 0,
    )


def capture(live: Document, registry: Document) -> FieldPlan:
    """Take the fields as they are; nothing changes."""
    engine = served_engine(live)
    return FieldPlan(
        changes=(),
        fields=configuration.current_fields(live),
        adapters=lora.current_verdicts(registry, engine),
    )


def upgrade(
    live: Document, registry: Document, engine: ServedEngine, *, model_path: str, at: datetime, migration_id: str
) -> FieldPlan:
    """Plan for serving `engine`: every field of ours gets its value, whatever it was."""
    at_local_iso = at.isoformat()
    fields = configuration.engine_fields(engine, model_path=model_path, at_local_iso=at_local_iso, live=live)
    switched, verdicts = lora.forward_fields(registry, engine, migration_id=migration_id, at_local_iso=at_local_iso)
    changes = (
        *configuration.plan_forward(live, fields),
        *configuration.plan_forward(registry, switched, document=REGISTRY),
    )
    return FieldPlan(changes=changes, fields=(*fields, *switched), adapters=verdicts)


def back(
    live: Document, registry: Document, active: Generation, target: Generation, *, at: datetime, migration_id: str
) -> FieldPlan:
    """Plan for serving what `target` served: only what still is as `active` set it; the rest is the user's."""
    wanted = tuple(field for field in target.fields if field.document == CONFIGURATION)
    changes, kept = configuration.plan_return(live, active=active.fields, target=wanted)
    users = {change.path for change in kept}
    fields = tuple(
        replace(field, value=get_field(live, field.path)) if field.path in users else field for field in wanted
    )
    switched, verdicts = lora.return_fields(
        registry,
        target.engine,
        target=target.adapters,
        migration_id=migration_id,
        at_local_iso=at.isoformat(),
    )
    return FieldPlan(
        changes=(*changes, *configuration.plan_forward(registry, switched, document=REGISTRY)),
        fields=(*fields, *switched),
        adapters=verdicts,
        kept=kept,
    )
