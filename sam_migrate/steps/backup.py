"""Step `backup`: copies of what a mistake could cost, read back; and, the first time, what SAM serves today."""

from __future__ import annotations

from typing import TYPE_CHECKING

from sam_migrate.domain.events import BackupTaken
from sam_migrate.steps import staging

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

    from sam_migrate.steps.world import Work


def run(work: Work) -> BackupTaken:
    """Capture generation 0 where there is none, then copy documents, prompts, vectors and adapters."""
    staging.capture(work)
    done = 0

    def advance(count: int) -> None:
        nonlocal done
        done += count
        work.world.observer.progressed(done=done, total=0, unit="bytes")

    facts = work.world.backups.take(work.state.migration_id, _files(work), heed=work.heed, advance=advance)
    return BackupTaken(manifest_sha256=facts.manifest_sha256, files=facts.files, size_bytes=facts.size_bytes)


def _files(work: Work) -> Iterator[tuple[str, Path]]:
    world, begun = work.world, work.state.begun
    yield from world.host.document_files()
    served = begun.base or begun.capture_id
    if served is not None:
        yield from world.generations.files(served)
    if work.state.required.backup_lora_adapters:
        yield from world.host.adapter_files()
