"""The file system as SAM's rooms use it: batches of edits by exchange, durable writes, room and permissions."""

from __future__ import annotations

import os
from contextlib import contextmanager
from typing import TYPE_CHECKING

from sam_migrate.adapters.durable import (
    copy_file,
    exchange,
    make_directory,
    remove_tree,
    sync_directory,
    sync_file,
    translate,
    write_durable,
)
from sam_migrate.adapters.edits import ExchangeEdits, recover

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

    from sam_migrate.ports import Edits

__all__ = [
    "LocalDisk",
    "copy_file",
    "exchange",
    "make_directory",
    "remove_tree",
    "sync_directory",
    "sync_file",
    "translate",
    "write_durable",
]


class LocalDisk:
    """The Disk port on a local file system."""

    @contextmanager
    def edits(self) -> Iterator[Edits]:
        """Open a batch; on leaving it, also by an exception, what was staged is exchanged and made durable."""
        batch = ExchangeEdits()
        try:
            yield batch
        finally:
            batch.close()

    def recover(self, directory: Path) -> int:
        """Deal with what a killed batch left in the directory, losing nobody's text; return how many files.

        For a document that is a link, the directory is that of the file it points to.
        """
        return recover(directory)

    def write(self, path: Path, content: bytes) -> None:
        """Write a file of ours: temporary beside it, fsync, rename, directory fsync."""
        write_durable(path, content)

    def free_bytes(self, path: Path) -> int:
        """Return the bytes free for us on the file system that holds the path, or its nearest parent there is."""
        nearest = _nearest(path)
        with translate(nearest):
            facts = os.statvfs(nearest)
        return facts.f_bavail * facts.f_frsize

    def unwritable(self, path: Path) -> str | None:
        """Return why the file or directory cannot be written, or None when it can.

        A file is replaced by name, so its directory must be writable as well; what is not there yet is judged by
        its nearest parent.
        """
        nearest = _nearest(path)
        if os.statvfs(nearest).f_flag & os.ST_RDONLY:
            return f"{nearest} is on a file system mounted read-only"
        if nearest.is_dir():
            return None if os.access(nearest, os.W_OK | os.X_OK) else f"no permission to write in {nearest}"
        if path != nearest:
            return f"{nearest} is not a directory"
        if not os.access(nearest, os.R_OK | os.W_OK):
            return f"no permission to read and write {nearest}"
        parent = nearest.resolve().parent
        return None if os.access(parent, os.W_OK | os.X_OK) else f"no permission to write in {parent}"


def _nearest(path: Path) -> Path:
    """Return the path, or its nearest parent that is there."""
    return next((here for here in (path, *path.parents) if here.exists()), path)
