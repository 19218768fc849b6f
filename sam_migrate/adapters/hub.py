"""The Hub's metadata through huggingface_hub: which commit, how many bytes, which digest; never the bytes."""

from __future__ import annotations

import difflib
import os
import re
from functools import cached_property
from typing import TYPE_CHECKING, Final, NoReturn

from huggingface_hub import HfApi, constants, get_token, hf_hub_url
from huggingface_hub.errors import HfHubHTTPError, HFValidationError, OfflineModeIsEnabled

from sam_migrate.adapters.wire import may_carry_token, refusal, retryable
from sam_migrate.errors import HubRefusedError, RefusedError, WaitingError
from sam_migrate.ports import RemoteFile

if TYPE_CHECKING:
    from huggingface_hub.hf_api import ModelInfo, RepoSibling

DEFAULT_ENDPOINT: Final = "https://huggingface.co"
TIMEOUT_SECONDS: Final = 10.0
SUGGESTIONS_MAX: Final = 3

_COMMIT: Final = re.compile(r"[0-9a-f]{40,64}")
_SHA256: Final = re.compile(r"[0-9a-f]{64}")
# http.client and its like quote a header they refuse in their messages; a token must never get that far.
_TOKEN: Final = re.compile(r"[!-~]{1,8192}")


class HuggingFaceHub:
    """The Hub port; `endpoint` and `token` are what the transfer of the bytes needs, too."""

    def __init__(self, endpoint: str | None, token: str | None, *, timeout_seconds: float = TIMEOUT_SECONDS) -> None:
        """Take the endpoint given, else HF_ENDPOINT as it is now, else the public Hub."""
        self.endpoint = (endpoint or os.environ.get("HF_ENDPOINT") or DEFAULT_ENDPOINT).rstrip("/")
        self._given = token
        self._timeout_seconds = timeout_seconds
        if not re.fullmatch(r"https?://[^/\s@?#]+(/[^\s@?#]*)?", self.endpoint):
            raise RefusedError(
                "the Hub's endpoint is not an http or https URL without a password in it",
                hint="Set HF_ENDPOINT to something like https://huggingface.co.",
            )

    @cached_property
    def token(self) -> str | None:
        """Find the token: the one given, else the one huggingface_hub finds; None over a wire others may read."""
        if not may_carry_token(self.endpoint):
            return None
        token = self._given or (None if constants.HF_HUB_DISABLE_IMPLICIT_TOKEN else _found_token())
        if token is not None and not _TOKEN.fullmatch(token):
            raise HubRefusedError(
                "the Hub's token has characters that no token has",
                hint="Set HF_TOKEN again, without spaces and line ends.",
            )
        return token

    def resolve(self, repository: str, filename: str, *, revision: str | None) -> RemoteFile:
        """Pin commit, size and SHA-256; raise HubRefusedError (final) or WaitingError (network, 429, 5xx)."""
        info = self._info(repository, filename, revision)
        if not isinstance(info.sha, str) or not _COMMIT.fullmatch(info.sha):
            raise HubRefusedError(f"the Hub names no commit of {repository}", hint="Check HF_ENDPOINT.")
        found = _sibling(info, repository, filename)
        digest = found.lfs.sha256 if found.lfs else None
        if not isinstance(digest, str) or not _SHA256.fullmatch(digest):
            raise HubRefusedError(
                f"the Hub tells no SHA-256 of {repository}/{filename}, so what comes could not be verified",
                hint="Choose a file the Hub stores with LFS (every GGUF model is), or use `sam-migrate models import`.",
            )
        size = found.lfs.size if found.lfs else None
        if type(size) is not int or size <= 0 or found.size not in (None, size):
            raise HubRefusedError(f"the Hub tells no sensible size of {repository}/{filename}", hint="Try again later.")
        url = hf_hub_url(repository, filename, revision=info.sha, endpoint=self.endpoint)
        return RemoteFile(
            repository=repository, filename=filename, commit=info.sha, size_bytes=size, sha256=digest, url=url
        )

    def _info(self, repository: str, filename: str, revision: str | None) -> ModelInfo:
        """Ask for commit and files in one request, so that they belong together."""
        api = HfApi(endpoint=self.endpoint, token=self.token or False)
        try:
            return api.model_info(repository, revision=revision, files_metadata=True, timeout=self._timeout_seconds)
        except HFValidationError as error:
            raise HubRefusedError(
                f"'{repository}' is not the name of a repository on the Hub", hint="Check the catalog's entry."
            ) from error
        except OfflineModeIsEnabled as error:
            raise WaitingError(
                "network", "huggingface_hub is in offline mode", hint="Unset HF_HUB_OFFLINE, then resume."
            ) from error
        except HfHubHTTPError as error:
            _raise_status(error, repository, filename)
        except (ValueError, KeyError, TypeError, AttributeError) as error:
            raise WaitingError(
                "network",
                f"{self.endpoint} answers, but not as a Hub does",
                hint="Check HF_ENDPOINT and whether a login page stands between, then resume.",
            ) from error
        except Exception as error:
            # What remains is the HTTP client's own, and which one that is changes with huggingface_hub.
            raise WaitingError(
                "network",
                f"{self.endpoint} cannot be reached ({type(error).__name__})",
                hint="Check the connection, then resume.",
            ) from error


def _found_token() -> str | None:
    try:
        return get_token()
    except Exception as error:
        # It may ask the network, when tokens are renewed or exchanged, and raises whatever that raises.
        raise WaitingError(
            "network",
            f"huggingface_hub could not renew the token ({type(error).__name__})",
            hint="Log in again with `hf auth login` or set HF_TOKEN, then resume.",
        ) from error


def _raise_status(error: HfHubHTTPError, repository: str, filename: str) -> NoReturn:
    response = error.response
    if not retryable(response.status_code):
        code = response.headers.get("X-Error-Code")
        raise refusal(response.status_code, code, repository=repository, filename=filename) from error
    patience = response.headers.get("Retry-After", "")
    asked = f" and asks for {int(patience)} s of patience" if re.fullmatch(r"[0-9]{1,6}", patience) else ""
    raise WaitingError(
        "network",
        f"the Hub answered {response.status_code} to the request for {repository}{asked}",
        hint="Resume in a while; nothing is lost.",
    ) from error


def _sibling(info: ModelInfo, repository: str, filename: str) -> RepoSibling:
    siblings = info.siblings or []
    for sibling in siblings:
        if sibling.rfilename == filename:
            return sibling
    names = [sibling.rfilename for sibling in siblings if isinstance(sibling.rfilename, str)]
    close = difflib.get_close_matches(filename, names, n=SUGGESTIONS_MAX, cutoff=0.5)
    raise HubRefusedError(
        f"the Hub has no such file: {repository}/{filename}",
        hint=f"Check the catalog's entry; the repository has {', '.join(close) or 'nothing like it'}.",
    )
