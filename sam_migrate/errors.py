"""Every error of the package; imports nothing.

SamMigrateError                 a caller's mistake or a failure told to the user
  RefusedError                  exit 3: nothing was changed
    BadFileError                a file from outside does not parse or holds what it must not
    UnknownEngineError          the engine is not in the catalog or cannot be fetched
    OpenRunError                another run is open and its worker is gone
  FailedError                   exit 4: the work failed, the state is consistent
    HubRefusedError             the Hub answered and will not give the file
    EngineError                 the engine crashed, hung or gave garbage
  IntegrityError                exit 6: the log or the disk is not what it must be
    IllegalTransitionError      a history no state machine of ours could have written
  LockedError                   exit 7: a living process holds the work
  UnknownRunError               exit 9: no such run, model or generation
  WaitingError                  exit 10: the world is at fault; goes on when the cause is gone
  StopRequested                 control flow: the run was asked to stop (cancel, pause, signal)
"""

from __future__ import annotations


class SamMigrateError(RuntimeError):
    """Base of the package's errors; `hint` says what to do, `exit_code` what the CLI answers."""

    exit_code = 1

    def __init__(self, message: str, *, hint: str = "") -> None:
        """Keep the sentence and the advice that goes with it."""
        super().__init__(message)
        self.message = message
        self.hint = hint


class RefusedError(SamMigrateError):
    """The request was refused before anything changed."""

    exit_code = 3


class BadFileError(RefusedError):
    """A file from outside cannot be used as it is; it was not touched."""

    def __init__(self, path: str, reason: str, *, hint: str = "") -> None:
        """Name the file and the reason it was refused."""
        super().__init__(f"{path}: {reason}", hint=hint or "Repair the file or restore it, then run the command again.")
        self.path = path
        self.reason = reason


class UnknownEngineError(RefusedError):
    """The engine is not in the catalog, or its entry names no file to fetch."""


class OpenRunError(RefusedError):
    """Another run is open and nobody works on it."""


class FailedError(SamMigrateError):
    """The work failed; what was there before still serves."""

    exit_code = 4


class HubRefusedError(FailedError):
    """The Hub answered and will not give the file: missing, gated, unauthorised or another digest."""


class EngineError(FailedError):
    """The engine's child process crashed, hung, or answered with garbage."""

    def __init__(self, message: str, *, crashed: bool = False, hint: str = "") -> None:
        """Tell a crash (`crashed`), which safe mode may cure, from an answer that is wrong."""
        super().__init__(message, hint=hint)
        self.crashed = crashed


class IntegrityError(SamMigrateError):
    """The log or the disk is not what it must be."""

    exit_code = 6


class IllegalTransitionError(IntegrityError):
    """No machine of ours allows this trigger in this state."""

    def __init__(self, state: str, trigger: str) -> None:
        """Name the state and the trigger it does not allow."""
        super().__init__(f"'{trigger}' is not a legal move from '{state}'")
        self.state = state
        self.trigger = trigger


class LockedError(SamMigrateError):
    """A living process holds the work."""

    exit_code = 7

    def __init__(self, name: str, pid: int | None) -> None:
        """Name the lock and, where known, the process that holds it."""
        holder = f"process {pid}" if pid else "another process"
        super().__init__(
            f"{name} is being worked on by {holder}", hint="Watch it with `sam-migrate status`, or stop that process."
        )
        self.name = name
        self.pid = pid


class UnknownRunError(SamMigrateError):
    """No run, model or generation has this id."""

    exit_code = 9


class WaitingError(SamMigrateError):
    """The world is at fault: the run waits, keeps what is verified, and goes on when the cause is gone."""

    exit_code = 10

    def __init__(self, waiting_for: str, message: str, *, hint: str = "") -> None:
        """Name the cause with a stable word (`space`, `network`, `io`, `read_only`, `descriptors`, `file`)."""
        super().__init__(message, hint=hint)
        self.waiting_for = waiting_for


class StopRequested(SamMigrateError):  # noqa: N818 - control flow, not a fault
    """A run was asked to stop; `request` is `cancel`, `pause` or `interrupt`."""

    exit_code = 8

    def __init__(self, request: str, run_id: str = "") -> None:
        """Keep which request it was, and of which run."""
        super().__init__(f"{run_id or 'the run'} was asked to stop: {request}")
        self.request = request
        self.run_id = run_id
