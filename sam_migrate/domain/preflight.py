"""Checks before a switch: their verdicts, and what they let a run do. The judging of single facts is here, pure."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Final

STAGES: Final = ("plan", "fetched", "probed")
PASS: Final = "pass"  # noqa: S105 - a verdict
WARN: Final = "warn"
BLOCK: Final = "block"
LATER: Final = "later"


@dataclass(frozen=True, slots=True, kw_only=True)
class Check:
    """One check: its stable id, the stage that can judge it, `pass`, `warn`, `block` or `later`, and what to do."""

    id: str
    stage: str
    verdict: str
    message: str
    hint: str = ""


def blocking(checks: tuple[Check, ...], overrides: frozenset[str]) -> tuple[Check, ...]:
    """Return the checks that forbid going on and were not overridden."""
    return tuple(check for check in checks if check.verdict == BLOCK and check.id not in overrides)


def reason(blocked: tuple[Check, ...]) -> str:
    """Say in one paragraph why the run was refused."""
    return "; ".join(f"{check.id}: {check.message}" for check in blocked)
