"""Fills the small filesystem it is given around an open log: `fill_disk.py FOLDER`."""

from __future__ import annotations

import contextlib
import sys
from pathlib import Path

from event_store import StoreFullError
from event_store.sqlite import SqliteEventStore
from tests.event_store.samples import batch

RESERVE_BYTES = 128 * 1024


def main(folder: Path) -> None:
    """Append until nothing more fits, look at the log, make room, append again."""
    store = SqliteEventStore(folder / "events.db", reserve_bytes=RESERVE_BYTES)
    reserve = folder / "events.db-reserve"
    assert reserve.stat().st_size == RESERVE_BYTES
    with (folder / "ballast").open("wb", buffering=0) as ballast:
        with contextlib.suppress(OSError):
            while ballast.write(bytes(4096)):
                pass
        version, last_with_reserve = 0, 0
        with contextlib.suppress(StoreFullError):
            while version < 10_000:
                store.append(batch("s", f"e{version}", after=version))
                version += 1
                last_with_reserve = version if reserve.exists() else last_with_reserve
        assert last_with_reserve < version < 10_000
        assert store.head().position == version
        assert list(store.verify()) == []
        ballast.truncate(0)
    store.append(batch("s", f"e{version}", after=version))
    assert list(store.verify()) == []
    store.close()
    print("full, whole, and going on")  # noqa: T201 - the parent reads it


if __name__ == "__main__":
    main(Path(sys.argv[1]))
