"""Step `verify`: load through the new configuration, ask and search once, compare SAM's files; go back if it fails."""

from __future__ import annotations

from contextlib import closing
from typing import TYPE_CHECKING, Final

from sam_migrate.domain import events
from sam_migrate.domain.migration import STARTS_MAX
from sam_migrate.errors import EngineError, IntegrityError, WaitingError
from sam_migrate.steps import cutover, projection, staging
from sam_migrate.steps.rehearse import NEAREST

if TYPE_CHECKING:
    from sam_migrate.domain.generation import Generation
    from sam_migrate.steps.world import Work

CANARY_PROMPT: Final = "Say one word."


def run(work: Work) -> events.Event | None:
    """Return what was checked; on failure move the pointer back to the base, which a rollback never does."""
    generation = work.state.generation
    if generation is None:
        raise IntegrityError(f"{work.state.migration_id} reached its verification without a commit")
    if work.state.starts >= STARTS_MAX:
        _failed(work, f"verify was started {work.state.starts - 1} times and never came to an end")
        return None
    problems = work.world.generations.problems(generation, deep=False)
    checked = ["generation complete", "SAM's files follow"]
    try:
        problems += _compare(work, generation)
        checked += _ask(work, generation) if not problems else []
    except EngineError as error:
        problems.append(error.message)
    if problems:
        _failed(work, "; ".join(problems))
        return None
    return events.EngineVerified(checked=tuple(checked))


def back(work: Work, reason: str) -> None:
    """Commit the base again, as a new generation derived from it; the run then materialises it and fails."""
    base = work.generation(staging.serving_id(work))
    active = work.home.active
    if base is None or active is None:
        raise IntegrityError(f"{work.state.migration_id} has lost the generation it was built on")
    generation, plan = cutover.derive(work, base, f"{active.generation_id}-back")
    work.commit(events.GenerationReturned(generation=generation, reason=reason, changes=plan.changes), ())


def _failed(work: Work, reason: str) -> None:
    if work.target is not None:
        raise WaitingError(
            "verify",
            f"the generation gone back to does not verify: {reason}",
            hint="Mend the cause and resume; nothing is switched again by itself.",
        )
    back(work, f"verify: {reason}")


def _compare(work: Work, generation: Generation) -> list[str]:
    """Let SAM's files follow what changed since, then once more: what has to be written again did not stick.

    Fields the user changed meanwhile are the user's and no problem; a chunk added meanwhile gets its vector.
    """
    changes = work.state.committed.changes if work.state.committed else ()
    staging.complete(work, generation.generation_id, generation.embedder)
    for _ in range(2):
        edited, written = projection.follow(work.world, generation, changes, before=generation.embedder, heed=work.heed)
    problems = [f"{edited.applied} fields of SAM's documents do not follow"] if edited.applied else []
    return problems + ([f"{written.written} chunks do not keep their vectors"] if written.written else [])


def _ask(work: Work, generation: Generation) -> list[str]:
    """Load the engine from the generation, generate, and find a chunk through its own index."""
    world = work.world
    checked = []
    path = world.generations.model(generation.generation_id)
    if generation.engine.sha256 is None or path is None:
        return ["files only: SAM's own engine serves"]
    probed = work.state.probed
    if probed is not None and probed.facts.generates:
        engine = world.engines.open(generation.engine, path, safe_mode=generation.safe_mode, heed=work.heed)
        try:
            engine.generate(CANARY_PROMPT, max_tokens=4)
            checked.append("canary prompt answered")
        finally:
            engine.unload_model()
    ordered = staging.texts(world.host.chunks())
    if generation.embedder.provider == "engine" and ordered:
        content_hash, text = ordered[len(ordered) // 2]
        with (
            staging.opened(work, generation.generation_id, generation.embedder) as engine,
            closing(
                world.generations.index(generation.generation_id, dimension=generation.embedder.dimension)
            ) as index,
        ):
            near = [found for found, _ in index.search(engine.embed(text), limit=NEAREST)]
        if content_hash not in near:
            raise EngineError("the canary query did not find its own chunk in the new index")
        checked.append("canary query found its chunk")
    return checked
