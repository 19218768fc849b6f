"""The Hub's metadata: what is pinned, what is final, what is worth waiting for, and where the token goes."""

from __future__ import annotations

from typing import TYPE_CHECKING

import pytest

from sam_migrate.adapters.hub import DEFAULT_ENDPOINT, HuggingFaceHub
from sam_migrate.errors import HubRefusedError, RefusedError, WaitingError
from tests.adapters.conftest import FILENAME, REPOSITORY

if TYPE_CHECKING:
    from pathlib import Path

    from sam_migrate.demo.hub import LoopbackHub
    from sam_migrate.ports import RemoteFile


def adapter(server: LoopbackHub, token: str | None = None) -> HuggingFaceHub:
    """Make the adapter for the server."""
    return HuggingFaceHub(server.endpoint, token, timeout_seconds=5.0)


def test_resolve_pins_the_file(hub_server: LoopbackHub, hub_remote: RemoteFile) -> None:
    """Commit, size, digest and a URL at that commit come from one request."""
    assert adapter(hub_server).resolve(REPOSITORY, FILENAME, revision=None) == hub_remote
    assert len(hub_server.log) == 1


def test_resolve_takes_a_revision(hub_server: LoopbackHub) -> None:
    """A revision that is not there is final, one that is there is pinned."""
    commit = hub_server.commit(REPOSITORY)
    assert adapter(hub_server).resolve(REPOSITORY, FILENAME, revision=commit).commit == commit
    with pytest.raises(HubRefusedError, match="no such revision"):
        adapter(hub_server).resolve(REPOSITORY, FILENAME, revision="v9")


def test_resolve_quotes_folders(hub_server: LoopbackHub, hub_file: Path) -> None:
    """A file in a folder with a space in its name has a URL that the Hub understands."""
    hub_server.repositories[REPOSITORY]["Q4 K/a.gguf"] = hub_file
    url = adapter(hub_server).resolve(REPOSITORY, "Q4 K/a.gguf", revision=None).url
    assert url.endswith("/Q4%20K/a.gguf")


def test_resolve_missing_file_suggests(hub_server: LoopbackHub) -> None:
    """A misspelt file name is final, and the hint names the one that is there."""
    with pytest.raises(HubRefusedError, match="no such file") as caught:
        adapter(hub_server).resolve(REPOSITORY, "model-q4.gguf", revision=None)
    assert FILENAME in caught.value.hint


def test_resolve_without_digest_refuses(hub_server: LoopbackHub) -> None:
    """A file whose SHA-256 the Hub does not know is refused, with a way out."""
    hub_server.faults.without_sha256 = True
    with pytest.raises(HubRefusedError, match="no SHA-256") as caught:
        adapter(hub_server).resolve(REPOSITORY, FILENAME, revision=None)
    assert "import" in caught.value.hint


@pytest.mark.parametrize("digest", ["../../evil", "ABC", "0" * 63])
def test_resolve_bad_digest_refuses(hub_server: LoopbackHub, digest: str) -> None:
    """What is no SHA-256 is not believed, whoever says it."""
    hub_server.faults.announced_sha256[FILENAME] = digest
    with pytest.raises(HubRefusedError, match="no SHA-256"):
        adapter(hub_server).resolve(REPOSITORY, FILENAME, revision=None)


@pytest.mark.parametrize("name", ["org/absent", "not a name", "../org/model", "a/b/c"])
def test_resolve_unknown_repository_refuses(hub_server: LoopbackHub, name: str) -> None:
    """A repository that is not there, or has no name at all, is final."""
    with pytest.raises(HubRefusedError) as caught:
        adapter(hub_server).resolve(name, FILENAME, revision=None)
    assert caught.value.hint


@pytest.mark.parametrize(
    ("status", "code"), [(401, None), (403, None), (403, "GatedRepo"), (404, "RepoNotFound"), (410, None), (418, None)]
)
def test_resolve_final_statuses_refuse(hub_server: LoopbackHub, status: int, code: str | None) -> None:
    """An answer that will not change is HubRefusedError, with what and what to do."""
    hub_server.faults.api_statuses, hub_server.faults.error_code = [status], code
    with pytest.raises(HubRefusedError, match=REPOSITORY) as caught:
        adapter(hub_server).resolve(REPOSITORY, FILENAME, revision=None)
    assert caught.value.hint


@pytest.mark.parametrize("status", [408, 429, 500, 503])
def test_resolve_passing_statuses_wait(hub_server: LoopbackHub, status: int) -> None:
    """An answer that may change waits for the network, at once: nothing sleeps inside."""
    hub_server.faults.api_statuses, hub_server.faults.retry_after = [status], "77"
    with pytest.raises(WaitingError, match="77 s of patience") as caught:
        adapter(hub_server).resolve(REPOSITORY, FILENAME, revision=None)
    assert caught.value.waiting_for == "network"


def test_resolve_unreachable_waits() -> None:
    """A Hub that nobody answers for is a matter of the network."""
    with pytest.raises(WaitingError, match="cannot be reached") as caught:
        HuggingFaceHub("http://127.0.0.1:1", None).resolve(REPOSITORY, FILENAME, revision=None)
    assert caught.value.waiting_for == "network"


def test_resolve_gated_needs_token(hub_server: LoopbackHub) -> None:
    """A gated repository is refused with a hint that names HF_TOKEN, and opens with the right token."""
    with pytest.raises(HubRefusedError, match="gated") as caught:
        adapter(hub_server).resolve("org/gated", FILENAME, revision=None)
    assert "HF_TOKEN" in caught.value.hint
    assert adapter(hub_server, "hf_good").resolve("org/gated", FILENAME, revision=None).repository == "org/gated"


def test_resolve_never_tells_the_token(hub_server: LoopbackHub) -> None:
    """A wrong token is in no message, hint or URL."""
    with pytest.raises(HubRefusedError) as caught:
        adapter(hub_server, "hf_wrong").resolve("org/gated", FILENAME, revision=None)
    assert "hf_wrong" not in f"{caught.value} {caught.value.hint} {caught.value.__cause__}"
    assert not [asked for asked in hub_server.log if "hf_wrong" in asked.path]


def test_token_with_line_end_refused() -> None:
    """A token that would break the header is refused before any client could quote it."""
    with pytest.raises(HubRefusedError) as caught:
        _ = HuggingFaceHub(None, "hf_secret\r\nX: y").token
    assert "hf_secret" not in str(caught.value)


@pytest.mark.parametrize(
    ("endpoint", "sent"),
    [
        ("https://mirror.example", True),
        ("http://127.0.0.1:8080", True),
        ("http://localhost", True),
        ("http://mirror.example", False),
        ("http://127.0.0.1.evil.example", False),
    ],
)
def test_token_stays_off_plain_http(endpoint: str, *, sent: bool) -> None:
    """A token goes over TLS or not off this machine."""
    assert (HuggingFaceHub(endpoint, "hf_good").token is not None) is sent


def test_endpoint_given_beats_environment(monkeypatch: pytest.MonkeyPatch) -> None:
    """The endpoint is the one given, else HF_ENDPOINT as it is now, else the public one."""
    assert HuggingFaceHub(None, None).endpoint == DEFAULT_ENDPOINT
    monkeypatch.setenv("HF_ENDPOINT", "https://mirror.example/")
    assert HuggingFaceHub(None, None).endpoint == "https://mirror.example"
    assert HuggingFaceHub("http://127.0.0.1:9", None).endpoint == "http://127.0.0.1:9"


@pytest.mark.parametrize("endpoint", ["ftp://x", "hub.example", "https://user:pw@hub.example", "https://h/?q"])
def test_endpoint_must_be_a_url(endpoint: str) -> None:
    """An endpoint that is no plain URL, or carries a password, is refused without being repeated."""
    with pytest.raises(RefusedError, match="endpoint") as caught:
        HuggingFaceHub(endpoint, None)
    assert endpoint not in str(caught.value)
