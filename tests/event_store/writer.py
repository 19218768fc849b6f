"""Another process that appends: `writer.py LOG STREAM COUNT`; prints each version once it is acknowledged."""

from __future__ import annotations

import sys

from event_store import Batch, NewEvent
from event_store.sqlite import SqliteEventStore


def main(path: str, stream: str, count: int) -> None:
    """Open the log, wait for the word, append."""
    store = SqliteEventStore(path, timeout_seconds=20.0, reserve_bytes=4096)
    print("ready", flush=True)  # noqa: T201 - the parent waits for it
    sys.stdin.readline()
    head = store.stream_head(stream)
    first = head.version if head else 0
    for version in range(first, first + count):
        event = NewEvent(event_id=f"{stream}/{version + 1}", type="Written", schema=1, payload='{"n":1}')
        store.append(Batch(stream=stream, events=(event,), expected_version=version, status="open"))
        print(version + 1, flush=True)  # noqa: T201 - the acknowledgement
    store.close()


if __name__ == "__main__":
    main(sys.argv[1], sys.argv[2], int(sys.argv[3]))
