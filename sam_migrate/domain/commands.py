"""What is asked of a run; what its steps measured comes as the event it would be, and `decide` judges it."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True, slots=True, kw_only=True)
class Claim:
    """Work on the run in this process."""

    runner: str
    pid: int


@dataclass(frozen=True, slots=True, kw_only=True)
class RequestCancel:
    """Ask whoever works on the run to cancel it."""


@dataclass(frozen=True, slots=True, kw_only=True)
class RequestPause:
    """Ask whoever works on the run to stop and keep it for `resume`."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Stop:
    """Leave the run in good order; `request` is `cancel`, `pause` or `interrupt`."""

    request: str


@dataclass(frozen=True, slots=True, kw_only=True)
class Fail:
    """The work cannot be done; after the commit this only makes the run wait."""

    reason: str
    exit_code: int = 4


@dataclass(frozen=True, slots=True, kw_only=True)
class BeginStep:
    """Start the next step."""

    step: str


@dataclass(frozen=True, slots=True, kw_only=True)
class Complete:
    """Every step is done."""


Command = Claim | RequestCancel | RequestPause | Stop | Fail | BeginStep | Complete
