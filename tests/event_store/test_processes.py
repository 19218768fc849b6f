"""Real processes on one log: side by side, at the first opening, and killed."""

from __future__ import annotations

import os
import subprocess
import sys
from contextlib import closing
from pathlib import Path

import pytest

from event_store.sqlite import SqliteEventStore
from tests.event_store.samples import batch

ROOT = Path(__file__).parents[2]
WRITER = Path(__file__).with_name("writer.py")


def start(path: Path, stream: str, *, count: int) -> subprocess.Popen[str]:
    """Start a process that appends to the stream."""
    return subprocess.Popen(
        [sys.executable, WRITER, path, stream, str(count)],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        text=True,
        env={**os.environ, "PYTHONPATH": str(ROOT)},
    )


def go(*writers: subprocess.Popen[str]) -> None:
    """Wait until each has opened the log, then let all of them begin."""
    for writer in writers:
        assert writer.stdout
        assert writer.stdout.readline() == "ready\n"
    for writer in writers:
        assert writer.stdin
        writer.stdin.write("go\n")
        writer.stdin.flush()


def test_processes_append_side_by_side(log_path: Path) -> None:
    """Two processes that make the log at the same moment and fill it lose nothing."""
    writers = [start(log_path, f"run-{number}", count=150) for number in range(2)]
    go(*writers)
    assert [writer.communicate(timeout=60)[0].split()[-1] for writer in writers] == ["150", "150"]
    with closing(SqliteEventStore(log_path)) as store:
        assert sorted((head.stream, head.version) for head in store.stream_heads()) == [("run-0", 150), ("run-1", 150)]
        assert list(store.verify()) == []


def test_kill_loses_nothing_acknowledged(log_path: Path) -> None:
    """After SIGKILL in the middle of appends the log opens, whole, with every append that was acknowledged."""
    for acknowledged in (1, 40, 120):
        writer = start(log_path, "run-1", count=100_000)
        go(writer)
        with writer:
            assert writer.stdout
            lines = [writer.stdout.readline() for _ in range(acknowledged)]
            writer.kill()
            lines += writer.stdout.readlines()
        last = int([line for line in lines if line.endswith("\n")][-1])
        with closing(SqliteEventStore(log_path)) as store:
            head = store.stream_head("run-1")
            assert head is not None
            assert last <= head.version <= last + 1
            assert [record.version for record in store.read("run-1")] == list(range(1, head.version + 1))
            assert list(store.verify()) == []


def test_kill_of_one_does_not_stop_other(log_path: Path) -> None:
    """A dead process's lock is gone with it: the others go on with the log open."""
    with closing(SqliteEventStore(log_path, timeout_seconds=20.0)) as store:
        writer = start(log_path, "run-1", count=100_000)
        go(writer)
        with writer:
            assert writer.stdout
            for number in range(30):
                writer.stdout.readline()
                store.append(batch("run-2", f"mine/{number}", after=number))
            writer.kill()
        store.append(batch("run-2", "mine/30", after=30))
        assert list(store.verify()) == []


def test_exit_without_close_folds_the_log(log_path: Path) -> None:
    """A process that forgets to close the store still closes it in order."""
    script = "import sys; from event_store.sqlite import SqliteEventStore; s = SqliteEventStore(sys.argv[1])"
    subprocess.run([sys.executable, "-c", script, log_path], cwd=ROOT, check=True)
    assert not log_path.with_name("events.db-wal").exists()


@pytest.mark.skipif(sys.platform != "linux", reason="needs a small filesystem of its own")
def test_full_disk_spends_the_reserve(tmp_path: Path) -> None:
    """On a disk that fills up the reserve lets more appends through, and the one that fails leaves no trace."""
    mount = 'mount -t tmpfs -o size=3m none "$1" || exit 77; exec "$2" -m tests.event_store.fill_disk "$1"'
    done = subprocess.run(
        ["unshare", "--mount", "--map-root-user", "sh", "-c", mount, "sh", tmp_path, sys.executable],
        cwd=ROOT,
        capture_output=True,
        text=True,
        check=False,
        timeout=60,
    )
    if done.stdout == "" and "Traceback" not in done.stderr:
        pytest.skip(f"no right to mount here: {done.stderr}")
    assert (done.stdout, done.stderr) == ("full, whole, and going on\n", "")
