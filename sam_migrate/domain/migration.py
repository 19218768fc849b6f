"""A migration as the fold of its events: decide, evolve, next_step. Pure; the order of the steps is kept here."""

from __future__ import annotations

from dataclasses import dataclass, field, replace
from typing import TYPE_CHECKING, Final

from sam_migrate.domain import commands, control, events, lifecycle, preflight
from sam_migrate.domain.control import Control
from sam_migrate.errors import IllegalTransitionError, RefusedError, StopRequested

if TYPE_CHECKING:
    from collections.abc import Iterable

    from sam_migrate.domain.generation import Generation
    from sam_migrate.domain.preflight import Check

PREFLIGHT: Final = "preflight"
FETCH: Final = "fetch"
PROBE: Final = "probe"
BACKUP: Final = "backup"
RE_EMBED: Final = "re_embed"
PROMPTS: Final = "prompts"
REHEARSE: Final = "rehearse"
CUTOVER: Final = "cutover"
VERIFY: Final = "verify"
RETIRE: Final = "retire"

UPGRADE_STEPS: Final = (PREFLIGHT, FETCH, PROBE, BACKUP, RE_EMBED, PROMPTS, REHEARSE, CUTOVER, VERIFY, RETIRE)
ROLLBACK_STEPS: Final = (PREFLIGHT, FETCH, PROBE, BACKUP, CUTOVER, VERIFY, RETIRE)
STARTS_MAX: Final = 3
"""The third start of a step that never came to an outcome is that step's failure."""

RECALL_MIN: Final = 0.9
"""Of the chunks asked back with half of their own words, so many must come among the first ten."""

_WEIGHTS: Final = {
    PREFLIGHT: 1,
    FETCH: 30,
    PROBE: 5,
    BACKUP: 6,
    RE_EMBED: 45,
    PROMPTS: 1,
    REHEARSE: 3,
    CUTOVER: 5,
    VERIFY: 3,
    RETIRE: 1,
}
"""Shares of a whole upgrade, roughly; only their proportions matter."""

_OUTCOMES: Final[dict[type[events.Event], str]] = {
    events.PreflightPassed: PREFLIGHT,
    events.ModelFetched: FETCH,
    events.EngineProbed: PROBE,
    events.BackupTaken: BACKUP,
    events.IndexBuilt: RE_EMBED,
    events.PromptsStaged: PROMPTS,
    events.RehearsalPassed: REHEARSE,
    events.FilesMaterialised: CUTOVER,
    events.EngineVerified: VERIFY,
}
_STEPS: Final[dict[type[events.Event], str]] = {
    **_OUTCOMES,
    events.DownloadJoined: FETCH,
    events.ChunksEmbedded: RE_EMBED,
    events.GenerationCommitted: CUTOVER,
    events.MigrationCompleted: RETIRE,
}
"""What can only happen in the turn of its step."""

_SKIPPED: Final = frozenset({FETCH, PROBE, RE_EMBED, PROMPTS})
_PROGRESS: Final = (
    events.DownloadJoined,
    events.GenerationCommitted,
    events.GenerationReturned,
    events.RunPaused,
    events.RunInterrupted,
    events.RunWaited,
)


_WITHOUT_DATA: Final = (
    events.StepSkipped,
    events.PreflightPassed,
    events.IndexBuilt,
    events.RehearsalPassed,
    events.EngineVerified,
    events.MigrationCompleted,
    events.MigrationCancelled,
    *control.EVENTS,
)


@dataclass(frozen=True, slots=True, kw_only=True)
class Migration:
    """A migration's state; `done` are the steps with an outcome, `progress` is 0 to 100 and never falls."""

    migration_id: str = ""
    state: str = lifecycle.NEW
    version: int = 0
    plan: events.MigrationPlanned | None = None
    started: events.MigrationStarted | None = None
    overrides: frozenset[str] = frozenset()
    current_step: str = ""
    starts: int = 0
    done: tuple[str, ...] = ()
    progress: float = 0.0
    download_id: str | None = None
    download_started: bool = False
    download_bytes: int = 0
    fetched: events.ModelFetched | None = None
    probed: events.EngineProbed | None = None
    backup: events.BackupTaken | None = None
    embedded: events.ChunksEmbedded | None = None
    prompts_sha256: str = ""
    generation: Generation | None = None
    committed: events.GenerationCommitted | None = None
    returned: events.GenerationReturned | None = None
    return_requested: bool = False
    kept: int = 0
    failing: events.FailureFound | None = None
    error: str | None = None
    exit_code: int = 0
    control: Control = field(default_factory=Control)

    @property
    def run_id(self) -> str:
        """Return the id, whatever the kind of run."""
        return self.migration_id

    @property
    def status(self) -> lifecycle.Status:
        """Return the public status."""
        return lifecycle.status(self.state)

    @property
    def steps(self) -> tuple[str, ...]:
        """Return the ids of the steps this run takes, in order."""
        return ROLLBACK_STEPS if self.plan and self.plan.target else UPGRADE_STEPS

    @property
    def required(self) -> events.MigrationPlanned:
        """Return the plan; every run that exists has one."""
        if self.plan is None:
            raise IllegalTransitionError("nothing", "plan")
        return self.plan

    @property
    def begun(self) -> events.MigrationStarted:
        """Return what was found when the run started."""
        if self.started is None:
            raise IllegalTransitionError(self.state, "begin")
        return self.started


def fold(history: Iterable[events.Event], state: Migration | None = None) -> Migration:
    """Fold a history; raise IllegalTransitionError where no migration could have gone that way."""
    state = state or Migration()
    for event in history:
        state = evolve(state, event)
    return state


def evolve(state: Migration, event: events.Event) -> Migration:
    """Fold one event, through the machine and the order of the steps first."""
    after = lifecycle.advance(state.state, event.trigger)
    _check_turn(state, event)
    outcome = event.step if isinstance(event, events.StepSkipped) else _OUTCOMES.get(type(event))
    advanced = outcome is not None or _is_progress(state, event)
    state = replace(state, state=after, version=state.version + 1, control=control.evolve(state.control, event))
    if advanced:
        state = replace(state, starts=0)
    if outcome is not None:
        state = replace(state, done=(*state.done, outcome))
    state = _fold_data(state, event)
    return replace(state, progress=max(state.progress, _progress(state)))


def _check_turn(state: Migration, event: events.Event) -> None:
    """Refuse what the machine alone would let pass: a step out of turn, an outcome on the wrong side of the commit."""
    step = event.step if isinstance(event, events.StepStarted | events.StepSkipped) else _STEPS.get(type(event))
    legal = step is None or step == next_step(state)
    match event:
        case events.StepSkipped():
            legal = legal and step in _SKIPPED
        case events.FilesMaterialised():
            legal = legal and state.state != lifecycle.PREPARING
        case events.FailureFound():
            legal = state.state == lifecycle.PREPARING and state.failing is None
        case events.MigrationFailed() if state.state == lifecycle.PREPARING:
            legal = state.failing is not None
        case events.MigrationFailed() if state.state == lifecycle.RETURNING:
            legal = CUTOVER in state.done
    if not legal:
        raise IllegalTransitionError(state.state, f"{type(event).__name__} of {step}" if step else type(event).__name__)


def _is_progress(state: Migration, event: events.Event) -> bool:
    """Tell whether the step got on; a worker that dies again and again at the same place does not."""
    if isinstance(event, events.ChunksEmbedded):
        return event.done > (state.embedded.done if state.embedded else 0)
    return isinstance(event, _PROGRESS)


def _fold_data(state: Migration, event: events.Event) -> Migration:
    match event:
        case events.MigrationPlanned():
            return replace(state, migration_id=event.migration_id, plan=event)
        case events.CheckOverridden():
            return replace(state, overrides=state.overrides | {event.check})
        case events.MigrationStarted():
            return replace(state, started=event)
        case events.StepStarted():
            return replace(state, current_step=event.step, starts=event.attempt)
        case events.DownloadJoined():
            return replace(
                state,
                download_id=event.download_id,
                download_started=event.started,
                download_bytes=event.done_bytes,
            )
        case events.ModelFetched():
            return replace(state, fetched=event)
        case events.EngineProbed():
            return replace(state, probed=event)
        case events.BackupTaken():
            return replace(state, backup=event)
        case events.ChunksEmbedded():
            return replace(state, embedded=event)
        case events.PromptsStaged():
            return replace(state, prompts_sha256=event.sha256)
        case events.GenerationCommitted():
            return replace(state, committed=event, generation=event.generation)
        case events.GenerationReturned():
            done = tuple(step for step in state.done if step != CUTOVER)
            return replace(state, returned=event, generation=event.generation, done=done)
        case events.ReturnRequested():
            return replace(state, return_requested=True)
        case events.FilesMaterialised():
            return replace(state, kept=len(event.kept))
        case events.FailureFound():
            return replace(state, failing=event)
        case events.MigrationFailed():
            return replace(state, error=event.reason, exit_code=event.exit_code)
        case _ if not isinstance(event, _WITHOUT_DATA):
            raise IllegalTransitionError(state.state, type(event).__name__)
    return state


def next_step(state: Migration) -> str | None:
    """Return the id of the step the world still owes us, or None where the run waits for a start or is over."""
    if state.state == lifecycle.RETURNING:
        return None if CUTOVER in state.done else CUTOVER
    if state.state not in (lifecycle.PREPARING, lifecycle.COMMITTED) or state.failing is not None:
        return None
    return next((step for step in state.steps if step not in state.done), None)


def _progress(state: Migration) -> float:
    if state.state == lifecycle.COMPLETED:
        return 100.0
    total = sum(_WEIGHTS[step] for step in state.steps)
    share = float(sum(_WEIGHTS[step] for step in state.done if step in state.steps))
    if RE_EMBED not in state.done and state.embedded is not None:
        share += _WEIGHTS[RE_EMBED] * state.embedded.done / max(1, state.embedded.total)
    return min(99.0, round(100.0 * share / total, 2))


def step_span(state: Migration, step: str) -> float:
    """Return how many percent of the run the step is worth."""
    return 100.0 * _WEIGHTS[step] / sum(_WEIGHTS[known] for known in state.steps)


def decide(state: Migration, command: commands.Command | events.Event) -> tuple[events.Event, ...]:
    """Judge a command or what a step measured; refuse what the state does not allow."""
    match command:
        case commands.BeginStep():
            return _begin(state, command.step)
        case commands.Stop(request="cancel"):
            return (events.MigrationCancelled(),)
        case commands.RequestCancel() if state.state == lifecycle.PENDING and state.control.runner is None:
            asked = () if state.control.cancel_requested else (events.CancelRequested(),)
            return *asked, events.MigrationCancelled()
        case commands.Fail():
            return _fail(state, command.reason, command.exit_code)
        case commands.Complete():
            return (events.MigrationCompleted(),)
        case events.MigrationStarted():
            return _start(state, command)
        case events.PreflightPassed() | events.ModelFetched() | events.EngineProbed():
            return _judge_checks(state, command)
        case events.RehearsalPassed():
            return _judge_rehearsal(state, command)
        case events.GenerationCommitted() if state.control.cancel_requested:
            raise StopRequested("cancel", state.migration_id)
        case events.ReturnRequested():
            return _request_return(state)
        case events.FilesMaterialised() if state.returned is not None:
            return command, events.MigrationFailed(reason=state.returned.reason, exit_code=5)
        case events.Event():
            return (command,)
    return control.decide(state.state, state.control, command, state.migration_id)


def _start(state: Migration, started: events.MigrationStarted) -> tuple[events.Event, ...]:
    if state.required.target is not None and started.base is None:
        raise RefusedError("there is no generation to go back to: nothing was ever upgraded here")
    return (started,)


def _begin(state: Migration, step: str) -> tuple[events.Event, ...]:
    attempt = state.starts + 1 if state.current_step == step else 1
    if attempt >= STARTS_MAX and state.state == lifecycle.PREPARING:
        reason = f"{step} was started {attempt - 1} times and never came to an end: its worker died each time"
        return _fail(state, reason, 4)
    return (events.StepStarted(step=step, attempt=attempt),)


def _fail(state: Migration, reason: str, exit_code: int, checks: tuple[Check, ...] = ()) -> tuple[events.Event, ...]:
    """Find the failure; asked again, when what was staged is removed, let it be the end."""
    if state.state in (lifecycle.COMMITTED, lifecycle.RETURNING):
        return (events.RunWaited(waiting_for="error", message=reason, hint="Mend the cause, then resume the run."),)
    found = state.failing
    if found is not None:
        return (events.MigrationFailed(reason=found.reason, exit_code=found.exit_code, checks=found.checks),)
    if state.state == lifecycle.PREPARING:
        return (events.FailureFound(reason=reason, exit_code=exit_code, checks=checks),)
    return (events.MigrationFailed(reason=reason, exit_code=exit_code, checks=checks),)


def _request_return(state: Migration) -> tuple[events.Event, ...]:
    if state.state == lifecycle.COMMITTED and not state.required.target:
        return () if state.return_requested else (events.ReturnRequested(),)
    raise RefusedError(f"{state.migration_id} is {state.status.value} and has no open commit to return from")


def _judge_checks(
    state: Migration, outcome: events.PreflightPassed | events.ModelFetched | events.EngineProbed
) -> tuple[events.Event, ...]:
    blocked = preflight.blocking(outcome.checks, state.overrides)
    if not blocked:
        return (outcome,)
    exit_code = 3 if isinstance(outcome, events.PreflightPassed) else 4
    return _fail(state, preflight.reason(blocked), exit_code, outcome.checks)


def _judge_rehearsal(state: Migration, outcome: events.RehearsalPassed) -> tuple[events.Event, ...]:
    if outcome.found >= RECALL_MIN * outcome.queries or "retrieval" in state.overrides:
        return (outcome,)
    reason = (
        f"retrieval: only {outcome.found} of {outcome.queries} chunks were found again with half of their own words; "
        "this engine's vectors would make search worse"
    )
    return _fail(state, reason, 4)
