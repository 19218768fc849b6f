"""What every run has beside its machine: who works on it, what was asked of it, what it waits for."""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import Final

from sam_migrate.domain import commands, events, lifecycle
from sam_migrate.errors import RefusedError

EVENTS: Final = (
    events.RunClaimed,
    events.CancelRequested,
    events.PauseRequested,
    events.RunPaused,
    events.RunInterrupted,
    events.RunWaited,
)
"""What can happen to any run."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Control:
    """The facts of an open run; `waiting_for` and `paused` end with the next claim."""

    runner: str | None = None
    pid: int | None = None
    cancel_requested: bool = False
    pause_requested: bool = False
    paused: bool = False
    waiting_for: str | None = None
    message: str | None = None
    hint: str = ""

    @property
    def request(self) -> str | None:
        """Return what the worker is asked to do now: `cancel`, `pause` or None."""
        if self.cancel_requested:
            return "cancel"
        return "pause" if self.pause_requested else None


def evolve(control: Control, event: events.Event) -> Control:
    """Fold one event of any run."""
    match event:
        case events.RunClaimed():
            return Control(runner=event.runner, pid=event.pid, cancel_requested=control.cancel_requested)
        case events.CancelRequested():
            return replace(control, cancel_requested=True)
        case events.PauseRequested():
            return replace(control, pause_requested=True)
        case events.RunPaused():
            return replace(control, paused=True, pause_requested=False, runner=None, pid=None)
        case events.RunInterrupted():
            return replace(control, runner=None, pid=None)
        case events.RunWaited():
            return replace(
                control, waiting_for=event.waiting_for, message=event.message, hint=event.hint, runner=None, pid=None
            )
    return control


def decide(state: str, control: Control, command: commands.Command, run_id: str) -> tuple[events.Event, ...]:
    """Answer the commands that every run understands alike; refuse what its state does not allow."""
    match command:
        case commands.Claim():
            _require_open(state, run_id, "worked on")
            return (events.RunClaimed(runner=command.runner, pid=command.pid),)
        case commands.RequestCancel():
            _require_uncommitted(state, run_id)
            return () if control.cancel_requested else (events.CancelRequested(),)
        case commands.RequestPause():
            _require_open(state, run_id, "paused")
            return () if control.pause_requested or control.paused else (events.PauseRequested(),)
        case commands.Stop(request="pause"):
            return (events.RunPaused(),)
        case commands.Stop(request="interrupt"):
            return (events.RunInterrupted(),)
    raise TypeError(command)


def _require_open(state: str, run_id: str, verb: str) -> None:
    if state not in lifecycle.OPEN:
        raise RefusedError(f"{run_id} is {lifecycle.status(state).value} and cannot be {verb}")


def _require_uncommitted(state: str, run_id: str) -> None:
    _require_open(state, run_id, "cancelled")
    if state not in lifecycle.UNCOMMITTED:
        raise RefusedError(
            f"{run_id} is past its point of no return and cannot be cancelled",
            hint=f"Go back with `sam-migrate rollback {run_id}`.",
        )
