"""The two documents of SAM's that a generation has fields in, and the configuration values of an engine."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Any, Final

from sam_migrate.domain.generation import Field, FieldChange, FieldValue
from sam_migrate.sam.documents import ABSENT, get_field, same

if TYPE_CHECKING:
    from collections.abc import Iterable

    from sam_migrate.domain.engine import ServedEngine

CONFIGURATION: Final = "configuration"
REGISTRY: Final = "registry"
FILES: Final = {
    CONFIGURATION: Path("sam_config.json"),
    REGISTRY: Path("models/personalized/model_registry.json"),
}

_DOWNLOADED: Final = ("engine_upgrade", "downloaded_engines")
_TRANSFORMER: Final = ("model", "transformer_model_name")


def owned_paths() -> tuple[tuple[str, ...], ...]:
    """Return the configuration fields that are ours; every other key is SAM's or the user's."""
    return (
        ("engine_upgrade", "active_engine_id"),
        ("engine_upgrade", "engine_model_name"),
        ("engine_upgrade", "engine_family"),
        ("engine_upgrade", "last_upgrade"),
        ("engine_upgrade", "local_model_path"),
        _DOWNLOADED,
        ("engine_upgrade", "migration_in_progress"),
        ("engine_upgrade", "last_migration_timestamp"),
        _TRANSFORMER,
        ("model", "max_context_length"),
    )


def current_fields(live: dict[str, Any]) -> tuple[Field, ...]:
    """Capture our configuration fields as they are now, absent ones too."""
    return tuple(Field(document=CONFIGURATION, path=path, value=get_field(live, path)) for path in owned_paths())


def engine_fields(
    engine: ServedEngine, *, model_path: str, at_local_iso: str, live: dict[str, Any]
) -> tuple[Field, ...]:
    """Return the configuration values for an engine that is newly served; `live` gives the engines downloaded so far.

    `model_path` is the one SAM shall read, `at_local_iso` naive local time, as SAM parses it.
    """
    downloaded = get_field(live, _DOWNLOADED).content
    engines = list(downloaded) if isinstance(downloaded, list) else []
    if engine.engine_id not in engines:
        engines.append(engine.engine_id)
    values: dict[tuple[str, ...], Any] = {
        ("engine_upgrade", "active_engine_id"): engine.engine_id,
        ("engine_upgrade", "engine_model_name"): engine.model_name,
        ("engine_upgrade", "engine_family"): engine.family,
        ("engine_upgrade", "last_upgrade"): at_local_iso,
        ("engine_upgrade", "local_model_path"): model_path,
        _DOWNLOADED: engines,
        ("engine_upgrade", "migration_in_progress"): False,
        ("engine_upgrade", "last_migration_timestamp"): at_local_iso,
        _TRANSFORMER: f"hf.co/{engine.repository}:{engine.quantization}",
        ("model", "max_context_length"): engine.context_length,
    }
    fields = {path: FieldValue(present=True, content=content) for path, content in values.items()}
    if not engine.repository:
        # The value is a name for Ollama; an imported file without a repository has none, so the old one stays.
        fields[_TRANSFORMER] = get_field(live, _TRANSFORMER)
    return tuple(Field(document=CONFIGURATION, path=path, value=fields[path]) for path in owned_paths())


def plan_forward(
    live: dict[str, Any], fields: Iterable[Field], *, document: str = CONFIGURATION
) -> tuple[FieldChange, ...]:
    """Turn the fields of one document into changes from whatever its live value is."""
    planned = []
    for field in fields:
        before = get_field(live, field.path)
        if field.document == document and not same(before, field.value):
            planned.append(FieldChange(document=document, path=field.path, before=before, after=field.value))
    return tuple(planned)


def plan_return(
    live: dict[str, Any], *, active: Iterable[Field], target: Iterable[Field], document: str = CONFIGURATION
) -> tuple[tuple[FieldChange, ...], tuple[FieldChange, ...]]:
    """Plan the way back to `target` of one document: the changes, and what the user changed since and keeps.

    A field goes back only where its live value still is what the active generation gave it.
    """
    given = {field.path: field.value for field in active if field.document == document}
    changes: list[FieldChange] = []
    kept: list[FieldChange] = []
    for field in target:
        found = get_field(live, field.path)
        if field.document != document or same(found, field.value):
            continue
        ours = given.get(field.path, ABSENT)
        change = FieldChange(document=document, path=field.path, before=ours, after=field.value)
        (changes if field.path in given and same(found, ours) else kept).append(change)
    return tuple(changes), tuple(kept)
