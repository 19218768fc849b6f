"""SAM's model catalog, read only, and its list of downloaded models, in exactly the form SAM's reader takes."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, Final

from sam_migrate.domain.engine import CatalogEntry
from sam_migrate.errors import BadFileError
from sam_migrate.sam.documents import make_document, parse, rewrite
from sam_migrate.sam.reading import patiently, read

if TYPE_CHECKING:
    from collections.abc import Callable
    from datetime import datetime
    from pathlib import Path

    from sam_migrate.ports import Disk

CATALOG: Final = "model_catalog.json"
DOWNLOADS: Final = "downloaded_models.json"

_TEXTS: Final = ("model_id", "display_name", "description", "model_family", "huggingface_repo", "quantization")

DEFAULTS: Final = (
    CatalogEntry(
        model_id="deepseek-r1-8b-q4",
        display_name="DeepSeek R1 8B (Q4_K_M)",
        description="Reasoning model, the usual choice",
        model_family="deepseek",
        huggingface_repo="unsloth/DeepSeek-R1-0528-Qwen3-8B-GGUF",
        filename="DeepSeek-R1-0528-Qwen3-8B-Q4_K_M.gguf",
        file_size=5_000_000_000,
        quantization="Q4_K_M",
        context_length=16_000,
        recommended=True,
        tags=("default", "reasoning"),
    ),
    CatalogEntry(
        model_id="deepseek-r1-8b-q8",
        display_name="DeepSeek R1 8B (Q8_0)",
        description="Reasoning model, more exact and larger",
        model_family="deepseek",
        huggingface_repo="unsloth/DeepSeek-R1-0528-Qwen3-8B-GGUF",
        filename="DeepSeek-R1-0528-Qwen3-8B-Q8_0.gguf",
        file_size=8_700_000_000,
        quantization="Q8_0",
        context_length=16_000,
        tags=("reasoning",),
    ),
    CatalogEntry(
        model_id="llama-3.1-8b-q4",
        display_name="Llama 3.1 8B Instruct (Q4_K_M)",
        description="General model for instructions and long texts",
        model_family="llama",
        huggingface_repo="bartowski/Meta-Llama-3.1-8B-Instruct-GGUF",
        filename="Meta-Llama-3.1-8B-Instruct-Q4_K_M.gguf",
        file_size=4_900_000_000,
        quantization="Q4_K_M",
        context_length=128_000,
        recommended=True,
        tags=("instruct", "long-context"),
    ),
)


def read_catalog(path: Path, *, pause: Callable[[float], None]) -> dict[str, CatalogEntry]:
    """Read the catalog, checked; the default entries when there is no file. The file is never written.

    Stock SAM replaces a catalog it cannot read, so it is refused here with the field that is wrong.
    """

    def attempt() -> dict[str, CatalogEntry]:
        content = read(path, path.name, follow=True)
        if content is None:
            return {entry.model_id: entry for entry in DEFAULTS}
        models = parse(content, path.name).get("models")
        if not isinstance(models, dict):
            raise BadFileError(path.name, "its 'models' must be an object")
        return {model_id: _entry(path.name, model_id, entry) for model_id, entry in models.items()}

    return patiently(attempt, pause)


def _entry(name: str, model_id: str, entry: object) -> CatalogEntry:
    if not isinstance(entry, dict):
        raise BadFileError(name, f"model '{model_id}' must be an object")

    def text(key: str) -> str:
        value = entry.get(key)
        if isinstance(value, str) and value:
            return value
        # A model may go without a description or a repository, as an imported file does, but not without the key.
        if value == "" and key in ("description", "huggingface_repo"):
            return ""
        raise BadFileError(name, f"model '{model_id}': '{key}' must be a text")

    def number(key: str, least: int) -> int:
        value = entry.get(key)
        if isinstance(value, int) and not isinstance(value, bool) and value >= least:
            return value
        raise BadFileError(name, f"model '{model_id}': '{key}' must be a whole number, {least} or more")

    texts = {key: text(key) for key in _TEXTS}
    if texts["model_id"] != model_id:
        raise BadFileError(name, f"model '{model_id}' has another 'model_id' inside: '{texts['model_id']}'")
    recommended, tags = _extras(name, model_id, entry)
    return CatalogEntry(
        **texts,
        filename=None if entry.get("filename", "") is None else text("filename"),
        file_size=number("file_size", 0),
        context_length=number("context_length", 1),
        recommended=recommended,
        tags=tags,
    )


def _extras(name: str, model_id: str, entry: dict[str, Any]) -> tuple[bool, tuple[str, ...]]:
    """Return the two fields an entry may lack."""
    recommended, tags = entry.get("recommended", False), entry.get("tags")
    if not isinstance(recommended, bool):
        raise BadFileError(name, f"model '{model_id}': 'recommended' must be true or false")
    if tags is not None and not (isinstance(tags, list) and all(isinstance(tag, str) for tag in tags)):
        raise BadFileError(name, f"model '{model_id}': 'tags' must be a list of texts")
    return recommended, tuple(tags or ())


def model_info(entry: CatalogEntry) -> dict[str, Any]:
    """Return the entry as SAM writes it, its keys in SAM's order; SAM's reader takes no other key."""
    return {
        "model_id": entry.model_id,
        "display_name": entry.display_name,
        "description": entry.description,
        "model_family": entry.model_family,
        "huggingface_repo": entry.huggingface_repo,
        "filename": entry.filename,
        "file_size": entry.file_size,
        "quantization": entry.quantization,
        "context_length": entry.context_length,
        "recommended": entry.recommended,
        "tags": list(entry.tags),
    }


class Downloads:
    """SAM's list of downloaded models; entries not ours are kept as they are."""

    def __init__(self, path: Path, disk: Disk, *, home: Path, pause: Callable[[float], None]) -> None:
        """Remember where the list is; touches nothing."""
        self._path = path
        self._disk = disk
        self._home = home
        self._pause = pause

    def add(self, entry: CatalogEntry, path: Path, *, at: datetime, size_bytes: int, sha256: str) -> None:
        """Enter the model, its path relative to home where it lies below it. Idempotent."""
        # SAM parses naive local times.
        moment = at.astimezone().replace(tzinfo=None).isoformat()
        below = path.is_relative_to(self._home)
        record = {
            "model_id": entry.model_id,
            "local_path": str(path.relative_to(self._home) if below else path),
            "downloaded_at": moment,
            "file_size": size_bytes,
            "checksum": sha256,
            "model_info": model_info(entry),
            "status": "downloaded",
        }

        def change(document: dict[str, Any]) -> bool:
            document.setdefault("version", "1.0.0")
            document["updated_at"] = moment
            models = document.setdefault("models", {})
            if not isinstance(models, dict):
                raise BadFileError(self._path.name, "its 'models' must be an object")
            if models.get(entry.model_id) == record:
                return False
            models[entry.model_id] = record
            return True

        make_document(self._path)
        rewrite(self._disk, self._path, self._path.name, change, pause=self._pause)

    def remove(self, model_id: str) -> None:
        """Take the model out, if it is in. Idempotent."""

        def change(document: dict[str, Any]) -> bool:
            models = document.get("models")
            return isinstance(models, dict) and models.pop(model_id, None) is not None

        if self._path.exists():
            rewrite(self._disk, self._path, self._path.name, change, pause=self._pause)
