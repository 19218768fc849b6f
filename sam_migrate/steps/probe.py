"""Step `probe`: a child process loads the engine, generates, embeds and measures; nothing of SAM's is touched."""

from __future__ import annotations

from typing import TYPE_CHECKING

from sam_migrate.domain import events
from sam_migrate.errors import EngineError, IntegrityError
from sam_migrate.steps import checks

if TYPE_CHECKING:
    from pathlib import Path

    from sam_migrate.domain.engine import ProbeFacts, ServedEngine
    from sam_migrate.steps.world import Work


def run(work: Work) -> events.Event:
    """Probe the fetched engine; once more in safe mode when its child dies."""
    fetched = work.state.fetched
    if fetched is None:
        if work.target is None:
            raise IntegrityError(f"{work.state.migration_id} reached its probe without a model")
        return events.StepSkipped(step="probe", reason="the kept generation was probed when it was made")
    path = work.world.generations.model(work.target.generation_id if work.target else work.state.begun.generation_id)
    if path is None:
        raise IntegrityError(f"the model file of {fetched.engine.engine_id} is gone")
    facts = _probe(work, fetched.engine, path)
    return events.EngineProbed(
        engine=fetched.engine,
        facts=facts,
        embedder_identity=f"gguf:{fetched.engine.sha256}:mean",
        checks=checks.probed_checks(facts, has_template=facts.rendered_prompt is not None),
    )


def _probe(work: Work, engine: ServedEngine, path: Path) -> ProbeFacts:
    try:
        return work.world.engines.probe(engine, path, safe_mode=False, heed=work.heed)
    except EngineError as error:
        if not error.crashed:
            raise
        work.world.observer.noted(f"{error.message}; trying once more in safe mode")
        return work.world.engines.probe(engine, path, safe_mode=True, heed=work.heed)
