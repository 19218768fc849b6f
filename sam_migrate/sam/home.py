"""SAM's home as the steps see it: one object over its files, each kind kept by a module of its own."""

from __future__ import annotations

import time
from typing import TYPE_CHECKING, Any, Final

from sam_migrate.ports import EditReport
from sam_migrate.sam import adapters as lora
from sam_migrate.sam import plans
from sam_migrate.sam.catalog import CATALOG, DOWNLOADS, Downloads, read_catalog
from sam_migrate.sam.configuration import FILES
from sam_migrate.sam.documents import edit_document, get_field, read_document
from sam_migrate.sam.holders import find_holders
from sam_migrate.sam.memory_store import MemoryStore
from sam_migrate.sam.prompts import build_prompts
from sam_migrate.sam.query_side import query_side

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Sequence
    from datetime import datetime
    from pathlib import Path

    from sam_migrate.domain.engine import CatalogEntry, ServedEngine
    from sam_migrate.domain.generation import Adapter, Chunk, FieldChange, FieldValue, Generation
    from sam_migrate.ports import Advance, Disk, FieldPlan, Heed, Holder, VectorReport

MODELS: Final = "sam/assets/core_models"
MEMORY: Final = "memory_store"


class SamHome:
    """The Host of the steps; making one reads and writes nothing."""

    def __init__(
        self,
        home: Path,
        disk: Disk,
        *,
        models_dir: Path | None = None,
        pause: Callable[[float], None] = time.sleep,
    ) -> None:
        """Fix where SAM's files are; `pause` waits out a SAM that is writing a file."""
        self._home = home
        self._disk = disk
        self._models = models_dir or home / MODELS
        self._pause = pause
        self._memory = MemoryStore(home / MEMORY, disk, pause=pause)
        self._downloads = Downloads(self._models / DOWNLOADS, disk, home=home, pause=pause)

    def catalog(self) -> dict[str, CatalogEntry]:
        """Read the model catalog, the default entries when there is none."""
        return read_catalog(self._models / CATALOG, pause=self._pause)

    def document(self, name: str) -> dict[str, Any]:
        """Parse `configuration` or `registry`; {} when there is no such file."""
        return read_document(self._home / FILES[name], FILES[name].as_posix(), pause=self._pause)

    def values(self, name: str, paths: Sequence[tuple[str, ...]]) -> dict[tuple[str, ...], FieldValue]:
        """Return the live values of those fields of a document."""
        document = self.document(name)
        return {path: get_field(document, path) for path in paths}

    def served_engine(self) -> ServedEngine:
        """Describe the engine SAM's configuration names now."""
        return plans.served_engine(self.document("configuration"))

    def capture(self) -> FieldPlan:
        """Take the fields of ours as they are now."""
        return plans.capture(self.document("configuration"), self.document("registry"))

    def plan_upgrade(self, engine: ServedEngine, *, model_path: str, at: datetime, migration_id: str) -> FieldPlan:
        """Plan the fields for serving `engine`."""
        live, registry = self.document("configuration"), self.document("registry")
        return plans.upgrade(live, registry, engine, model_path=model_path, at=at, migration_id=migration_id)

    def plan_return(self, active: Generation, target: Generation, *, at: datetime, migration_id: str) -> FieldPlan:
        """Plan the fields for going back to a kept generation."""
        live, registry = self.document("configuration"), self.document("registry")
        return plans.back(live, registry, active, target, at=at, migration_id=migration_id)

    def build_prompts(self, family: str, chat_template: str | None) -> dict[str, Any]:
        """Compose the prompt set of a family of engines."""
        return build_prompts(family, chat_template)

    def edit(self, changes: Sequence[FieldChange]) -> EditReport:
        """Apply field changes three-way, each document by one exchange."""
        applied = 0
        kept: list[FieldChange] = []
        for name, place in FILES.items():
            path = self._home / place
            mine = [change for change in changes if change.document == name]
            if not mine:
                continue
            if path.parent.is_dir():
                self._disk.recover(path.resolve().parent)
            report = edit_document(self._disk, path, place.as_posix(), mine, pause=self._pause)
            applied += report.applied
            kept.extend(report.kept)
        return EditReport(applied=applied, kept=tuple(kept))

    def chunks(self) -> Iterator[Chunk]:
        """Read every chunk in the order of ids."""
        return self._memory.chunks()

    def chunk_count(self) -> int:
        """Count the chunk files without reading them."""
        return self._memory.count()

    def write_vectors(
        self, value: Callable[[Chunk], FieldValue], *, heed: Heed, advance: Advance, keep_unknown: bool = False
    ) -> VectorReport:
        """Give every chunk its vector by exchange, text and all else kept."""
        return self._memory.write_vectors(value, heed=heed, advance=advance, keep_unknown=keep_unknown)

    def adapters(self) -> tuple[Adapter, ...]:
        """List the LoRA adapters in the registry."""
        return lora.read_adapters(self.document("registry"))

    def adapter_files(self) -> Iterator[tuple[str, Path]]:
        """Yield name and path of every file of every registered adapter."""
        return lora.files(self._home, self.adapters())

    def document_files(self) -> Iterator[tuple[str, Path]]:
        """Yield name and path of the documents that exist."""
        for place in FILES.values():
            if (self._home / place).is_file():
                yield place.as_posix(), self._home / place

    def holders(self) -> tuple[Holder, ...]:
        """Find every store of vectors in this home."""
        return find_holders(self._home)

    def query_side(self) -> str:
        """Tell who queries this home: `absent`, `follows` or `stock`."""
        return query_side(self._home)

    def unwritable(self) -> list[str]:
        """Name what we must write and cannot; an exchange needs the directory as well as the file."""
        files = [self._home / place for place in FILES.values()]
        directories = [self._home, *(path.parent for path in files), self._home / MEMORY, self._models]
        there = [path for path in (*files, *directories) if path.exists()]
        return [reason for path in dict.fromkeys(there) if (reason := self._reason(path)) is not None]

    def _reason(self, path: Path) -> str | None:
        reason = self._disk.unwritable(path)
        if reason is None:
            return None
        return f"{path.relative_to(self._home) if path.is_relative_to(self._home) else path}: {reason}"

    def add_downloaded(self, entry: CatalogEntry, path: Path, *, at: datetime, size_bytes: int, sha256: str) -> None:
        """Enter the model in SAM's list of downloaded models."""
        self._downloads.add(entry, path, at=at, size_bytes=size_bytes, sha256=sha256)

    def remove_downloaded(self, model_id: str) -> None:
        """Take the model out of SAM's list of downloaded models."""
        self._downloads.remove(model_id)
