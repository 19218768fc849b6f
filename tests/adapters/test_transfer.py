"""The bytes of a download over a real loopback server: resumed, interrupted, lied to, stopped and killed."""

from __future__ import annotations

import hashlib
import json
import os
import signal
import subprocess
import sys
import threading
import time
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING

import pytest

from sam_migrate.errors import HubRefusedError, RefusedError, StopRequested, WaitingError
from sam_migrate.ports import Segment
from tests.adapters.conftest import MIB, stop_when

if TYPE_CHECKING:
    from tests.adapters.conftest import Download

ROOT = Path(__file__).parents[2]
SECONDS_MAX = 30.0


def test_fetch_brings_the_file(hub_download: Download) -> None:
    """A whole download has the served digest and tells contiguous segments and every byte."""
    assert hub_download.run() == hub_download.remote.sha256
    assert [(part.start, part.end) for part in hub_download.segments] == [(0, MIB), (MIB, 2 * MIB), (2 * MIB, 3 * MIB)]
    assert hub_download.counted == hub_download.remote.size_bytes
    assert hub_download.right()


def test_fetch_segments_are_digests(hub_download: Download) -> None:
    """Each segment told has the SHA-256 of just its bytes."""
    hub_download.run()
    content = hub_download.partial.read_bytes()
    for part in hub_download.segments:
        assert hashlib.sha256(content[part.start : part.end]).hexdigest() == part.sha256


def test_fetch_takes_an_empty_file(hub_download: Download, hub_file: Path) -> None:
    """A file of no bytes is made without asking for any."""
    hub_file.write_bytes(b"")
    hub_download.remote = replace(hub_download.remote, size_bytes=0)
    assert hub_download.run() == hashlib.sha256().hexdigest()
    assert hub_download.partial.read_bytes() == b""


def test_fetch_resumes_with_the_rest(hub_download: Download) -> None:
    """Behind a cut only the bytes that no segment proves are asked for."""
    hub_download.run()
    hub_download.cut_to(2)
    assert hub_download.run() == hub_download.remote.sha256
    assert hub_download.ranges() == [f"bytes={2 * MIB}-{3 * MIB - 1}"]
    assert [asked.sent for asked in hub_download.server.bodies()] == [MIB]
    assert hub_download.counted == hub_download.remote.size_bytes


def test_fetch_complete_asks_nothing(hub_download: Download) -> None:
    """What is proven whole is hashed and not asked for."""
    hub_download.run()
    hub_download.server.log.clear()
    assert hub_download.run() == hub_download.remote.sha256
    assert hub_download.server.log == []


def test_fetch_damage_costs_one_segment(hub_download: Download) -> None:
    """A flipped byte is found when resuming, and only its segment is fetched again."""
    hub_download.run()
    with hub_download.partial.open("r+b") as file:
        file.seek(MIB + 5)
        file.write(b"\0\1\2")
    hub_download.server.log.clear()
    assert hub_download.run() == hub_download.remote.sha256
    assert hub_download.ranges() == [f"bytes={MIB}-{2 * MIB - 1}"]
    assert hub_download.right()


def test_fetch_unproven_bytes_count_nothing(hub_download: Download) -> None:
    """Bytes that are there without a segment are fetched again, even beyond the announced end."""
    hub_download.partial.write_bytes(b"x" * (4 * MIB))
    assert hub_download.run() == hub_download.remote.sha256
    assert hub_download.right()


@pytest.mark.parametrize(
    "lie", [(0, 4 * MIB), (-5, MIB), (MIB, MIB), (5 * MIB, 6 * MIB), (7, 2 * MIB), (0, MIB // 2), (MIB, MIB - 1)]
)
def test_fetch_odd_segments_harm_nothing(hub_download: Download, lie: tuple[int, int]) -> None:
    """Segments that overlap, lie outside or are empty do not mislead the fetch."""
    hub_download.run()
    hub_download.segments.append(Segment(start=lie[0], end=lie[1], sha256="0" * 64))
    hub_download.segments.reverse()
    assert hub_download.run() == hub_download.remote.sha256
    assert hub_download.right()


def test_fetch_goes_on_after_drops(hub_download: Download) -> None:
    """Each broken connection is followed by one that asks for the rest."""
    hub_download.server.faults.drop_after = [700_000, 0, 900_000]
    assert hub_download.run() == hub_download.remote.sha256
    assert hub_download.ranges()[1] == f"bytes=700000-{3 * MIB - 1}"
    assert sum(asked.sent for asked in hub_download.server.bodies()) == 3 * MIB


def test_fetch_budget_counts_failures_in_a_row(hub_download: Download) -> None:
    """Many drops with a byte between them are endured; too many without one wait for the network, and all is kept."""
    hub_download.server.faults.drop_after = [0, 0, 500_000, 0, 0, MIB, 0, 0, 0, 0]
    with pytest.raises(WaitingError) as caught:
        hub_download.run()
    assert caught.value.waiting_for == "network"
    assert hub_download.segments[-1].end == MIB + 500_000
    hub_download.server.faults.drop_after.clear()
    assert hub_download.run() == hub_download.remote.sha256


@pytest.mark.parametrize("status", [408, 429, 500, 502, 503])
def test_fetch_retries_passing_statuses(hub_download: Download, status: int) -> None:
    """An answer that may change is asked again, from the Hub and from the storage."""
    hub_download.server.faults.resolve_statuses = [status]
    hub_download.server.faults.storage_statuses = [status]
    assert hub_download.run() == hub_download.remote.sha256


@pytest.mark.parametrize(("origin", "status"), [("hub", 401), ("hub", 403), ("hub", 404), ("storage", 404)])
def test_fetch_final_statuses_refuse(hub_download: Download, origin: str, status: int) -> None:
    """An answer that will not change ends the fetch at once, with what to do."""
    faults = hub_download.server.faults
    (faults.resolve_statuses if origin == "hub" else faults.storage_statuses).append(status)
    with pytest.raises(HubRefusedError, match="org/model") as caught:
        hub_download.run()
    assert caught.value.hint
    assert hub_download.clock.paused == []


def test_fetch_waits_as_long_as_asked(hub_download: Download) -> None:
    """Retry-After is honoured in slices that leave room to heed."""
    hub_download.server.faults.resolve_statuses, hub_download.server.faults.retry_after = [429], "7"
    hub_download.run()
    assert sum(hub_download.clock.paused) == pytest.approx(7.0)
    assert max(hub_download.clock.paused) <= 0.2


def test_fetch_refuses_endless_patience(hub_download: Download) -> None:
    """A server that asks for hours is waited for as an open run, not inside it."""
    hub_download.server.faults.resolve_statuses, hub_download.server.faults.retry_after = [503], "86400"
    with pytest.raises(WaitingError, match="86400 s"):
        hub_download.run()
    assert hub_download.clock.paused == []


def test_fetch_heeds_while_it_waits(hub_download: Download) -> None:
    """A request to stop is heard within a slice of a Retry-After."""
    hub_download.server.faults.resolve_statuses, hub_download.server.faults.retry_after = [429], "300"
    with pytest.raises(StopRequested):
        hub_download.run(heed=stop_when(lambda: len(hub_download.clock.paused) == 2))
    assert len(hub_download.clock.paused) == 2


def test_fetch_renews_an_expired_url(hub_download: Download) -> None:
    """When the storage says that the signed URL expired, the Hub is asked for another."""
    hub_download.server.faults.expired_urls = 1
    assert hub_download.run() == hub_download.remote.sha256
    assert [asked.status for asked in hub_download.server.log] == [302, 403, 302, 200]


def test_fetch_gives_the_token_to_the_hub_only(hub_download: Download) -> None:
    """The token goes to the Hub's origin and is dropped on the way to the storage."""
    hub_download.run(token="hf_good")  # noqa: S106 - a token of the demo
    assert [(asked.origin, asked.authorized) for asked in hub_download.server.log] == [
        ("hub", True),
        ("storage", False),
    ]


def test_fetch_without_token_sends_none(hub_download: Download) -> None:
    """Nobody is told a token that is not there."""
    hub_download.run()
    assert not any(asked.authorized for asked in hub_download.server.log)


@pytest.mark.parametrize("location", ["ftp://127.0.0.1/x", "file:///etc/passwd", "http://[bad", "//:0/x"])
def test_fetch_follows_no_odd_redirects(hub_download: Download, location: str) -> None:
    """A redirect out of HTTP is not followed."""
    hub_download.server.faults.location = location
    with pytest.raises(WaitingError, match="redirect leads nowhere"):
        hub_download.run()


def test_fetch_bounds_redirects(hub_download: Download) -> None:
    """A redirect in a circle ends."""
    hub_download.server.faults.location = hub_download.remote.url
    with pytest.raises(WaitingError, match="more than 8 redirects"):
        hub_download.run(attempts_max=1)
    assert len(hub_download.server.log) == 9


def test_fetch_skips_when_ranges_are_ignored(hub_download: Download) -> None:
    """A server that answers a range with everything is read up to our position, and compared with what we have."""
    hub_download.run()
    hub_download.cut_to(2)
    hub_download.server.faults.ignore_range = True
    assert hub_download.run() == hub_download.remote.sha256
    assert hub_download.right()


def test_fetch_starts_over_on_other_bytes(hub_download: Download) -> None:
    """When that answer is not what we have, nothing of ours is kept, and the result is what the server serves."""
    hub_download.run()
    hub_download.cut_to(2)
    hub_download.server.faults.ignore_range = hub_download.server.faults.corrupt = True
    digest = hub_download.run()
    assert digest == hashlib.sha256(hub_download.partial.read_bytes()).hexdigest() != hub_download.remote.sha256
    assert hub_download.counted == hub_download.remote.size_bytes
    assert hub_download.segments[2].start == 0


def test_fetch_reports_a_wrong_digest(hub_download: Download) -> None:
    """Bytes that are not the announced ones come with the digest they have; judging is not done here."""
    hub_download.server.faults.corrupt = True
    assert (
        hub_download.run()
        == hashlib.sha256(hub_download.partial.read_bytes()).hexdigest()
        != hub_download.remote.sha256
    )


@pytest.mark.parametrize("total", [3 * MIB + 1, 3 * MIB - 1, 10])
def test_fetch_accepts_no_other_size(hub_download: Download, total: int) -> None:
    """An answer of another length than the pinned one brings nothing, ranged or whole."""
    hub_download.server.faults.announced_total = total
    with pytest.raises(WaitingError, match=f"announces {total} bytes"):
        hub_download.run()
    assert hub_download.partial.read_bytes() == b""
    hub_download.segments.append(Segment(start=2 * MIB, end=3 * MIB, sha256="0" * 64))
    with pytest.raises(HubRefusedError, match=f"has {total}"):
        hub_download.run()


def test_fetch_accepts_no_other_range(hub_download: Download) -> None:
    """An answer that begins elsewhere is not written anywhere."""
    hub_download.run()
    hub_download.cut_to(2)
    hub_download.server.faults.shift_range = 1
    with pytest.raises(WaitingError, match="other bytes than those asked for"):
        hub_download.run()
    assert hub_download.partial.stat().st_size == 2 * MIB + 1000


def test_fetch_sends_if_range(hub_download: Download) -> None:
    """After a drop the rest is asked for on condition that the file is still the one begun."""
    hub_download.server.faults.drop_after = [MIB]
    hub_download.run()
    conditions = [asked.if_range for asked in hub_download.server.log if asked.origin == "storage"]
    assert conditions == [None, f'"{hub_download.remote.sha256}"']


def test_fetch_unreachable_waits(hub_download: Download) -> None:
    """A port that nobody listens on spends the budget."""
    hub_download.remote = replace(hub_download.remote, url="http://127.0.0.1:1/x")
    with pytest.raises(WaitingError, match="no connection"):
        hub_download.run()
    assert len(hub_download.clock.paused) > 2


def test_fetch_cancelled_in_a_stall(hub_download: Download) -> None:
    """In a silence of the server a request to stop is heard within a second, and told segments stay."""
    hub_download.server.faults.stall_after = MIB + 5
    asked: list[float] = []
    timer = threading.Timer(0.3, lambda: asked.append(time.monotonic()))
    timer.start()
    with pytest.raises(StopRequested):
        hub_download.run(heed=stop_when(lambda: bool(asked)))
    assert time.monotonic() - asked[0] < 1.0
    timer.join()
    assert [part.end for part in hub_download.segments] == [MIB]


def test_fetch_gives_up_a_stall(hub_download: Download) -> None:
    """A server that says nothing for too long counts as a broken connection."""
    hub_download.server.faults.stall_after = 10
    with pytest.raises(WaitingError, match="no byte came"):
        hub_download.run(stall_seconds=0.2, attempts_max=1)


def test_fetch_heeds_a_trickle(hub_download: Download) -> None:
    """While bytes trickle in, heed is called all the same."""
    hub_download.server.bytes_per_second = 20_000
    heeded: list[float] = []

    def heed() -> None:
        heeded.append(time.monotonic())
        if len(heeded) > 5:
            raise StopRequested("pause")

    with pytest.raises(StopRequested):
        hub_download.run(heed=heed)
    assert heeded[-1] - heeded[0] < 3.0


def test_fetch_follows_no_link(hub_download: Download, hub_file: Path) -> None:
    """A partial that is a link is left alone, and so is what it points to."""
    before = hub_file.read_bytes()
    hub_download.partial.symlink_to(hub_file)
    with pytest.raises(WaitingError):
        hub_download.run()
    assert hub_file.read_bytes() == before


def test_fetch_refuses_a_pipe(hub_download: Download) -> None:
    """A partial that is no regular file is refused, without blocking on it."""
    os.mkfifo(hub_download.partial)
    with pytest.raises(RefusedError, match="not a regular file"):
        hub_download.run()


def test_fetch_missing_directory_waits(hub_download: Download) -> None:
    """When the library went away the fetch waits for it."""
    hub_download.partial = hub_download.partial.parent / "gone" / "x.part"
    with pytest.raises(WaitingError) as caught:
        hub_download.run()
    assert caught.value.waiting_for == "file"


CHILD = """
import json, resource, signal, sys, time
from datetime import UTC, datetime
from pathlib import Path
from sam_migrate.adapters.transfer import HttpTransfer
from sam_migrate.errors import WaitingError
from sam_migrate.ports import RemoteFile

class Clock:
    now = staticmethod(lambda: datetime.now(UTC))
    monotonic = staticmethod(time.monotonic)
    pause = staticmethod(time.sleep)

def told(segment):
    print(json.dumps({"start": segment.start, "end": segment.end, "sha256": segment.sha256}), flush=True)

remote, endpoint, partial = RemoteFile(**json.loads(sys.argv[1])), sys.argv[2], Path(sys.argv[3])
limit = int(sys.argv[4])
if limit:
    signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
    resource.setrlimit(resource.RLIMIT_FSIZE, (limit, limit))
transfer = HttpTransfer(None, endpoint, clock=Clock(), checkpoint_bytes_min=1 << 20, checkpoint_bytes_max=1 << 20)
try:
    transfer.fetch(remote, partial, segments=(), checkpoint=told, heed=lambda: None, advance=lambda _: None)
except WaitingError as error:
    sys.exit(f"{error.waiting_for}: {error}")
"""


def child(hub_download: Download, *, limit: int = 0) -> subprocess.Popen[str]:
    """Download in another process, which prints the segments it tells."""
    remote = {name: getattr(hub_download.remote, name) for name in hub_download.remote.__slots__}
    arguments = [json.dumps(remote), hub_download.server.endpoint, str(hub_download.partial), str(limit)]
    command = [sys.executable, "-c", CHILD, *arguments]
    return subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, cwd=ROOT)


def test_fetch_survives_a_kill(hub_download: Download) -> None:
    """A process killed with SIGKILL in the middle costs no byte that a segment was told of."""
    hub_download.server.bytes_per_second = 4 * MIB
    with child(hub_download) as process:
        assert process.stdout is not None
        hub_download.segments.append(Segment(**json.loads(process.stdout.readline())))
        process.kill()
        rest = [line for line in process.stdout.read().splitlines() if line.endswith("}")]
    assert process.returncode == -signal.SIGKILL
    hub_download.segments.extend(Segment(**json.loads(line)) for line in rest)
    durable = hub_download.segments[-1].end
    assert 0 < durable < hub_download.remote.size_bytes
    hub_download.server.bytes_per_second = None
    hub_download.server.log.clear()
    assert hub_download.run() == hub_download.remote.sha256
    assert hub_download.ranges() == [f"bytes={durable}-{3 * MIB - 1}"]


def test_fetch_full_disk_keeps_segments(hub_download: Download) -> None:
    """When the disk takes no more the fetch waits, and what was told is still proven."""
    with child(hub_download, limit=2 * MIB + 100) as process:
        out, complaint = process.communicate(timeout=SECONDS_MAX)
    assert process.returncode == 1
    assert complaint.startswith(("space: ", "file: "))
    hub_download.segments = [Segment(**json.loads(line)) for line in out.splitlines()]
    hub_download.server.log.clear()
    assert hub_download.run() == hub_download.remote.sha256
    assert hub_download.ranges() == [f"bytes={hub_download.segments[1].start}-{3 * MIB - 1}"]
