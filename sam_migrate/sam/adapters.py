"""LoRA adapters as SAM's registry knows them: reading, judging, switching off and on again."""

from __future__ import annotations

import os
import re
import stat
from hashlib import sha256
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final, TypeVar

from sam_migrate.domain.generation import Adapter, AdapterVerdict, Field, FieldValue
from sam_migrate.errors import BadFileError
from sam_migrate.sam.configuration import FILES, REGISTRY
from sam_migrate.sam.documents import ABSENT, ELEMENT_KEY

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator

    from sam_migrate.domain.engine import ServedEngine

T = TypeVar("T")

INVALIDATED: Final = "invalidated_by_migration"
SUPERSEDED: Final = "superseded_by_migration"

_HUB_PREFIXES: Final = ("https://huggingface.co/", "http://huggingface.co/", "huggingface.co/", "hf.co/")
_REPOSITORY: Final = re.compile(r"[a-z0-9][\w.-]*/[a-z0-9][\w.-]*")
_NAME: Final = str(FILES[REGISTRY])


def read_adapters(registry: dict[str, Any]) -> tuple[Adapter, ...]:
    """List the registered adapters, sorted by id; raise BadFileError where the registry has another shape.

    An adapter counts as on when either of SAM's two records says so.
    """
    slots = _slots(registry)
    adapters = []
    for model_id, entry in sorted(_typed(registry, "models", dict, "the registry", default={}).items()):
        where = f"adapter '{model_id}'"
        if not isinstance(entry, dict):
            raise BadFileError(_NAME, f"{where} must be an object")
        if entry.get("model_id", model_id) != model_id:
            raise BadFileError(_NAME, f"{where} has another 'model_id' inside")
        statistics = _typed(entry, "training_stats", dict, where, default={})
        notes = _typed(statistics, "migration_notes", list, where, default=[])
        if not all(isinstance(note, dict) for note in notes):
            raise BadFileError(_NAME, f"{where}: every one of its 'migration_notes' must be an object")
        adapters.append(
            Adapter(
                model_id=model_id,
                user_id=_typed(entry, "user_id", str, where),
                base_model=_typed(entry, "base_model", str, where, default=""),
                directory=_typed(entry, "model_path", str, where, default=""),
                is_active=_typed(entry, "is_active", bool, where, default=False) or model_id in slots.values(),
            )
        )
    return tuple(adapters)


def _slots(registry: dict[str, Any]) -> dict[str, str]:
    slots = _typed(registry, "active_models", dict, "the registry", default={})
    if not all(model_id is None or isinstance(model_id, str) for model_id in slots.values()):
        raise BadFileError(_NAME, "every entry of 'active_models' must be an adapter's id")
    return slots


def _typed(entry: dict[str, Any], key: str, kind: type[T], where: str, *, default: T | None = None) -> T:
    """Return the value if it is of the kind, the default when it is missing or null; None as default means needed."""
    value = entry.get(key)
    if value is None and default is not None:
        return default
    if not isinstance(value, kind):
        raise BadFileError(_NAME, f"{where}: '{key}' must be {kind.__name__}, not {type(value).__name__}")
    return value


def judge(adapter: Adapter, engine: ServedEngine) -> tuple[str, str]:
    """Return `compatible`, `incompatible` or `unknown`, and why; in doubt it is unknown.

    Matching shapes prove nothing, so only the recorded name of the base model counts.
    """
    base = _normalised(adapter.base_model)
    if not base:
        return "unknown", "the registry does not name its base model"
    repository = _normalised(engine.repository)
    bases = {_normalised(name) for name in engine.base_repositories} - {""}
    # A repository and its own GGUF edition, same owner: the same weights.
    if base in {repository, repository.removesuffix("-gguf"), *bases}:
        return "compatible", f"trained on {adapter.base_model}"
    if not _REPOSITORY.fullmatch(base):
        return "unknown", f"its base model '{adapter.base_model}' is not the name of a repository"
    if bases or not _words(base) & _words(repository):
        return "incompatible", f"trained on {adapter.base_model}, not on {engine.model_name}"
    return "unknown", f"trained on {adapter.base_model}; the engine's file does not name what it is made from"


def _normalised(name: str) -> str:
    name = name.strip().lower()
    for prefix in _HUB_PREFIXES:
        if name.startswith(prefix):
            # Only in this form a `:quantization` may follow.
            return name.removeprefix(prefix).partition(":")[0].rstrip("/")
    return name


def _words(repository: str) -> set[str]:
    return set(re.split(r"[^a-z0-9]+", repository.rpartition("/")[2])) - {"", "gguf"}


def current_verdicts(registry: dict[str, Any], engine: ServedEngine) -> tuple[AdapterVerdict, ...]:
    """Judge every adapter and tell whether it is on now, changing nothing."""
    return tuple(_verdict(adapter, engine, active=adapter.is_active) for adapter in read_adapters(registry))


def _verdict(adapter: Adapter, engine: ServedEngine, *, active: bool) -> AdapterVerdict:
    verdict, reason = judge(adapter, engine)
    return AdapterVerdict(
        model_id=adapter.model_id, user_id=adapter.user_id, verdict=verdict, reason=reason, active=active
    )


def forward_fields(
    registry: dict[str, Any], engine: ServedEngine, *, migration_id: str, at_local_iso: str
) -> tuple[tuple[Field, ...], tuple[AdapterVerdict, ...]]:
    """Return the registry fields for a newly served engine, every user's adapters judged.

    Compatible adapters stay as they are; the others that are on go off, with our note.
    """
    return _switch(registry, engine, trusted=frozenset(), migration_id=migration_id, at_local_iso=at_local_iso)


def return_fields(
    registry: dict[str, Any],
    engine: ServedEngine,
    *,
    target: Iterable[AdapterVerdict],
    migration_id: str,
    at_local_iso: str,
) -> tuple[tuple[Field, ...], tuple[AdapterVerdict, ...]]:
    """Return the registry fields for going back to a kept generation, every adapter judged anew.

    Off goes what does not fit its engine. On again comes what we switched off (our note says so) and the user left
    off, if it fits, or if it was on in the `target` generation and is not known to be unfit, and if the user has not
    put a fitting adapter in its place. Its notes are superseded.
    """
    trusted = frozenset(verdict.model_id for verdict in target if verdict.active)
    fields, verdicts = _switch(registry, engine, trusted=trusted, migration_id=migration_id, at_local_iso=at_local_iso)
    taken = {verdict.user_id for verdict in verdicts if verdict.active}
    revived: dict[str, str] = {}
    for verdict in sorted(verdicts, key=lambda each: _switched_off_at(registry, each.model_id), reverse=True):
        fits = verdict.verdict == "compatible" or (verdict.verdict == "unknown" and verdict.model_id in trusted)
        ours = _switched_off_at(registry, verdict.model_id) and not _is_on(registry, verdict)
        # One adapter a user; of several the one that went off last.
        if fits and ours and verdict.user_id not in taken:
            taken.add(verdict.user_id)
            revived[verdict.user_id] = verdict.model_id
    kept = tuple(field for field in fields if not (field.path[0] == "active_models" and field.path[1] in revived))
    back = tuple(field for user, model in revived.items() for field in _on(registry, user, model))
    judged = tuple(
        AdapterVerdict(
            model_id=each.model_id,
            user_id=each.user_id,
            verdict=each.verdict,
            reason=each.reason,
            active=each.active or each.model_id in revived.values(),
        )
        for each in verdicts
    )
    return kept + back, judged


def _switch(
    registry: dict[str, Any], engine: ServedEngine, *, trusted: frozenset[str], migration_id: str, at_local_iso: str
) -> tuple[tuple[Field, ...], tuple[AdapterVerdict, ...]]:
    slots = _slots(registry)
    fields: list[Field] = []
    verdicts = []
    for adapter in read_adapters(registry):
        verdict, reason = judge(adapter, engine)
        stays = verdict == "compatible" or (verdict == "unknown" and adapter.model_id in trusted)
        verdicts.append(_verdict(adapter, engine, active=adapter.is_active and stays))
        if stays or not adapter.is_active:
            continue
        note = {"timestamp": at_local_iso, "action": INVALIDATED, "reason": reason, ELEMENT_KEY: migration_id}
        fields.append(_field("models", adapter.model_id, "is_active", content=False))
        fields.extend(
            Field(document=REGISTRY, path=("active_models", user_id), value=ABSENT)
            for user_id, held in slots.items()
            if held == adapter.model_id
        )
        fields.append(_note(adapter.model_id, note))
    return tuple(fields), tuple(verdicts)


def _on(registry: dict[str, Any], user_id: str, model_id: str) -> tuple[Field, ...]:
    superseded = (_note(model_id, {**note, "action": SUPERSEDED}) for note in _our_notes(registry, model_id))
    return (
        _field("models", model_id, "is_active", content=True),
        _field("active_models", user_id, content=model_id),
        *superseded,
    )


def _is_on(registry: dict[str, Any], verdict: AdapterVerdict) -> bool:
    entry = registry["models"][verdict.model_id]
    return bool(entry.get("is_active")) or verdict.model_id in _slots(registry).values()


def _our_notes(registry: dict[str, Any], model_id: str) -> list[dict[str, Any]]:
    notes = (registry["models"][model_id].get("training_stats") or {}).get("migration_notes") or []
    return [note for note in notes if note.get("action") == INVALIDATED and isinstance(note.get(ELEMENT_KEY), str)]


def _switched_off_at(registry: dict[str, Any], model_id: str) -> str:
    """Return the time of our latest note that still stands, "" when there is none."""
    return max((str(note.get("timestamp")) for note in _our_notes(registry, model_id)), default="")


def _note(model_id: str, note: dict[str, Any]) -> Field:
    return _field("models", model_id, "training_stats", "migration_notes", note[ELEMENT_KEY], content=note)


def _field(*path: str, content: object) -> Field:
    return Field(document=REGISTRY, path=path, value=FieldValue(present=True, content=content))


def files(home: Path, adapters: Iterable[Adapter]) -> Iterator[tuple[str, Path]]:
    """Yield a safe, unique name and the path of every regular file of the adapters; links are not followed.

    A directory counts only with an `adapter_config.json` in it: a registry that names `/` must not copy the disk.
    """
    for adapter in adapters:
        top = home / adapter.directory
        if not adapter.directory or top.is_symlink() or not (top / "adapter_config.json").is_file():
            continue
        for directory, below, names in os.walk(top, followlinks=False):
            below.sort()
            for name in sorted(names):
                path = Path(directory, name)
                if _is_regular(path):
                    parts = (adapter.model_id, *path.relative_to(top).parts)
                    yield "/".join(safe_name(part) for part in parts), path


def _is_regular(path: Path) -> bool:
    try:
        return stat.S_ISREG(path.lstat().st_mode)
    except FileNotFoundError:
        return False


def safe_name(name: str) -> str:
    """Return a file name that means the same everywhere; what had to change is told apart by a digest."""
    plain = re.sub(r"[^A-Za-z0-9._-]", "_", name)[:100].lstrip(".").rstrip(".")
    if name and plain == name:
        return name
    # Names from a registry may hold what UTF-8 has no form for.
    digest = sha256(name.encode("utf-8", "surrogatepass")).hexdigest()[:12]
    return f"{plain or 'file'}-{digest}"
