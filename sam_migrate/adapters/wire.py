"""One request for a range of bytes: redirects, where the token may go, and answers checked before a byte is used.

Knows nothing of partials, retries and digests.
"""

from __future__ import annotations

import http.client
import ipaddress
import re
from datetime import UTC
from email.utils import parsedate_to_datetime
from typing import TYPE_CHECKING, Final
from urllib.parse import SplitResult, urljoin, urlsplit

from sam_migrate.adapters.connection import Connection, TransientError
from sam_migrate.errors import HubRefusedError

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping
    from typing import Self

    from sam_migrate.ports import Clock, Heed, RemoteFile

REDIRECTS_MAX: Final = 8

_REDIRECTS: Final = frozenset({301, 302, 303, 307, 308})
_RETRYABLE: Final = frozenset({408, 425, 429})
_EXPIRED: Final = frozenset({400, 401, 403})
_RANGE: Final = re.compile(r"bytes (\d{1,19})-(\d{1,19})/(\d{1,19})")
_DEFAULT_PORTS: Final = {"http": 80, "https": 443}


class Body:
    """The bytes of an answer that was checked: they begin at `start` of the file and there are at most `length`."""

    def __init__(self, response: http.client.HTTPResponse, connection: Connection, *, start: int, length: int) -> None:
        """Take over the connection; `close` gives it back."""
        self.start = start
        self.etag = response.getheader("ETag")
        self._left = length
        self._response = response
        self._connection = connection

    def __enter__(self) -> Self:
        """Return the body."""
        return self

    def __exit__(self, *_: object) -> None:
        """Close the connection, read to its end or not."""
        self._connection.close()

    def readinto(self, view: memoryview) -> int:
        """Fill some of the view; 0 where the answer ends, early or not. Raises TransientError."""
        try:
            count = self._response.readinto(view[: self._left])
        except (http.client.HTTPException, ValueError) as error:
            raise TransientError("the answer broke off") from error
        self._left -= count
        return count


class Wire:
    """Asks the Hub for bytes, and whoever it sends us to; only the Hub's own origin ever sees the token."""

    def __init__(self, endpoint: str, token: Callable[[], str | None], *, clock: Clock, stall_seconds: float) -> None:
        """Keep where the token may go; `stall_seconds` bounds every silence."""
        self._endpoint = endpoint
        self._token = token
        self._clock = clock
        self._stall_seconds = stall_seconds

    def open(self, remote: RemoteFile, *, start: int, end: int, etag: str | None, heed: Heed) -> Body:
        """Ask for the bytes `start` to `end` (exclusive); a server that knows no ranges answers from 0.

        Always begins at the Hub's own URL, so that a signed one that expired is replaced. Raises TransientError,
        HubRefusedError when the answer is final, and whatever `heed` raises.
        """
        url = remote.url
        headers = {"Accept-Encoding": "identity", "Connection": "close", "User-Agent": "sam-migrate"}
        if start or end < remote.size_bytes:
            headers["Range"] = f"bytes={start}-{end - 1}"
            if etag and not etag.startswith("W/"):
                headers["If-Range"] = etag
        for _ in range(REDIRECTS_MAX + 1):
            response, connection = self._request(url, headers, heed)
            try:
                if response.status not in _REDIRECTS:
                    begins, length = self._judge(response, url, remote, start=start, end=end)
                    return Body(response, connection, start=begins, length=length)
                url = _redirected(url, response.getheader("Location"))
            except BaseException:
                connection.close()
                raise
            connection.close()
        raise TransientError(f"more than {REDIRECTS_MAX} redirects")

    def _request(self, url: str, headers: Mapping[str, str], heed: Heed) -> tuple[http.client.HTTPResponse, Connection]:
        parts = urlsplit(url)
        token = self._token() if same_origin(url, self._endpoint) and may_carry_token(url) else None
        secret = {"Authorization": f"Bearer {token}"} if token else {}
        target = f"{parts.path or '/'}?{parts.query}" if parts.query else parts.path or "/"
        connection = Connection(parts, heed=heed, clock=self._clock, stall_seconds=self._stall_seconds)
        try:
            return connection.get(target, {**headers, **secret}), connection
        except BaseException:
            connection.close()
            raise

    def _judge(
        self, response: http.client.HTTPResponse, url: str, remote: RemoteFile, *, start: int, end: int
    ) -> tuple[int, int]:
        """Return where the answer's bytes begin and how many there are, or raise what the answer means."""
        status = response.status
        if status not in (200, 206):
            raise self._fault(response, url, remote)
        if response.getheader("Content-Encoding", "identity") != "identity":
            raise TransientError("the answer is encoded although it must not be")
        size = remote.size_bytes
        if status == 200:  # noqa: PLR2004 - "OK", the whole file
            if response.length != size:
                announced = "no length" if response.length is None else f"{response.length} bytes"
                raise TransientError(f"the answer announces {announced} where the file has {size}")
            return 0, size
        match = _RANGE.fullmatch(response.getheader("Content-Range", ""))
        if match is None:
            raise TransientError("the answer does not say which bytes it brings")
        first, last, total = (int(number) for number in match.groups())
        if total != size:
            raise _other_size(remote, str(total))
        if first != start or not start <= last < end or response.length not in (None, last - first + 1):
            raise TransientError("the answer brings other bytes than those asked for")
        return first, last - first + 1

    def _fault(
        self, response: http.client.HTTPResponse, url: str, remote: RemoteFile
    ) -> TransientError | HubRefusedError:
        status, at_hub = response.status, same_origin(url, self._endpoint)
        if status in _EXPIRED and not at_hub:
            return TransientError(f"the storage behind the Hub answered {status} to its signed URL")
        if retryable(status):
            return TransientError(
                f"the server answered {status}",
                retry_after_seconds=self._retry_after(response.getheader("Retry-After")),
            )
        if status == 416:  # noqa: PLR2004 - "Range Not Satisfiable"
            return _other_size(remote, response.getheader("Content-Range", "fewer").rpartition("/")[2])
        code = response.getheader("X-Error-Code") if at_hub else None
        return refusal(status, code, repository=remote.repository, filename=remote.filename)

    def _retry_after(self, value: str | None) -> float | None:
        """Read the header in either of its forms: seconds, or a date."""
        if value is None:
            return None
        if value.strip().isdecimal():
            return float(value)
        try:
            until = parsedate_to_datetime(value)
        except ValueError:
            return None
        until = until if until.tzinfo else until.replace(tzinfo=UTC)
        return max(0.0, (until - self._clock.now()).total_seconds())


def retryable(status: int) -> bool:
    """Tell whether the same request may get another answer later."""
    return status in _RETRYABLE or status >= 500  # noqa: PLR2004 - the server's faults


def refusal(status: int, code: str | None, *, repository: str, filename: str) -> HubRefusedError:
    """Say what a final answer of the Hub means and what to do about it."""
    what = f"{repository}/{filename}"
    if code == "GatedRepo":
        return HubRefusedError(
            f"{what} is gated: the Hub gives it only to accounts that accepted its terms",
            hint="Accept the terms on the repository's page, set HF_TOKEN to a token of that account, then retry.",
        )
    if status == 401:  # noqa: PLR2004 - "Unauthorized", for names that do not exist as well
        return HubRefusedError(
            f"the Hub does not give {what} to us: no such repository, or it is private, or the token is not valid",
            hint="Check the repository's name; for a private one set HF_TOKEN to a valid token, then retry.",
        )
    if status == 403:  # noqa: PLR2004 - "Forbidden"
        return HubRefusedError(
            f"the Hub forbids {what} to us",
            hint="Set HF_TOKEN to a token whose permissions include this repository, then retry.",
        )
    missing = {"EntryNotFound": "file", "RevisionNotFound": "revision of the repository"}.get(code or "", "repository")
    if status in (404, 410):
        return HubRefusedError(
            f"the Hub has no such {missing}: {what}",
            hint="Check the catalog's entry; if the repository is private, set HF_TOKEN to a token that may read it.",
        )
    return HubRefusedError(f"the Hub answered {status} to the request for {what}", hint="Check the catalog's entry.")


def same_origin(first: str, second: str) -> bool:
    """Tell whether two URLs have the same scheme, host and port."""
    return _origin(urlsplit(first)) == _origin(urlsplit(second))


def may_carry_token(url: str) -> bool:
    """Tell whether nobody on the way could read a token: HTTPS, or never leaving this machine."""
    parts = urlsplit(url)
    host = parts.hostname or ""
    try:
        loopback = ipaddress.ip_address(host).is_loopback
    except ValueError:
        loopback = host == "localhost"
    return parts.scheme == "https" or (parts.scheme == "http" and loopback)


def _origin(parts: SplitResult) -> tuple[str, str | None, int | None]:
    return parts.scheme, parts.hostname, parts.port or _DEFAULT_PORTS.get(parts.scheme)


def _redirected(url: str, location: str | None) -> str:
    """Return where the redirect leads; never from HTTPS to plain HTTP, never out of HTTP."""
    try:
        target = urljoin(url, location or "")
        scheme, host, _ = _origin(urlsplit(target))
    except ValueError as error:
        raise TransientError("a redirect leads nowhere") from error
    if not location or not host or scheme not in _DEFAULT_PORTS or (url.startswith("https:") and scheme != "https"):
        raise TransientError("a redirect leads nowhere we may go")
    return target


def _other_size(remote: RemoteFile, found: str) -> HubRefusedError:
    return HubRefusedError(
        f"{remote.filename}: the Hub announced {remote.size_bytes} bytes, the file that came has {found}",
        hint="The mirror serves another file; check HF_ENDPOINT and the catalog's entry, then retry.",
    )
