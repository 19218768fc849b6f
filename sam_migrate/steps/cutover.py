"""Step `cutover`: catch up, seal, move the pointer by one append, then let SAM's files follow.

Everything before the append can be thrown away; everything after it is repeated until it is done.
"""

from __future__ import annotations

from contextlib import closing
from typing import TYPE_CHECKING

from sam_migrate.domain import events, lifecycle
from sam_migrate.domain.generation import Generation
from sam_migrate.errors import IntegrityError
from sam_migrate.steps import projection, staging

if TYPE_CHECKING:
    from datetime import datetime

    from sam_migrate.domain.engine import Embedder, ServedEngine
    from sam_migrate.domain.migration import Migration
    from sam_migrate.ports import FieldPlan
    from sam_migrate.steps.world import Work


def run(work: Work) -> events.Event:
    """Commit where that is still to do, then materialise what is committed."""
    state = work.state
    if state.state == lifecycle.PREPARING:
        state = _commit_return(work) if work.target is not None else _commit_upgrade(work)
    return materialise(work, state)


def _commit_upgrade(work: Work) -> Migration:
    state, fetched = work.state, work.state.fetched
    if fetched is None:
        raise IntegrityError(f"{state.migration_id} reached its cutover without a model")
    embedder = staging.new_embedder(work)
    staging.complete(work, state.begun.generation_id, embedder)
    work.world.backups.take(
        f"{state.migration_id}.cutover", work.world.host.document_files(), heed=work.heed, advance=lambda _: None
    )
    # What may take long is done: the fields are read as close to the append as can be.
    captured = _captured(work)
    plan = work.world.host.plan_upgrade(
        fetched.engine, model_path=fetched.path, at=_local_now(work), migration_id=state.migration_id
    )
    generation = _seal(
        work,
        state.begun.generation_id,
        base=staging.serving_id(work),
        derived_from=None,
        engine=fetched.engine,
        embedder=embedder,
        plan=plan,
        safe_mode=state.probed.facts.safe_mode if state.probed else False,
    )
    committed = events.GenerationCommitted(generation=generation, reason="upgrade", changes=plan.changes)
    return work.commit(committed, (captured,) if captured else ())


def _commit_return(work: Work) -> Migration:
    if work.target is None:
        raise IntegrityError(f"{work.state.migration_id} has no generation to go back to")
    generation, plan = derive(work, work.target, work.state.begun.generation_id)
    return work.commit(events.GenerationCommitted(generation=generation, reason="rollback", changes=plan.changes), ())


def derive(work: Work, target: Generation, generation_id: str) -> tuple[Generation, FieldPlan]:
    """Build a generation that serves again what a kept one served, on top of the one that serves now."""
    world, active = work.world, work.home.active
    if active is None:
        raise IntegrityError("nothing serves that could be gone back from")
    generations = world.generations
    with (
        closing(generations.index(target.generation_id, dimension=target.embedder.dimension)) as source,
        closing(generations.index(generation_id, dimension=target.embedder.dimension)) as index,
    ):
        index.copy_from(source)
    for role in ("model", "embedder"):
        path = generations.model(target.generation_id, role=role)
        if path is not None:
            generations.link_model(generation_id, path, role=role)
    generations.write_prompts(generation_id, generations.prompts(target.generation_id))
    staging.complete(work, generation_id, target.embedder)
    plan = world.host.plan_return(active, target, at=_local_now(work), migration_id=work.state.migration_id)
    generation = _seal(
        work,
        generation_id,
        base=active.generation_id,
        derived_from=target.generation_id,
        engine=target.engine,
        embedder=target.embedder,
        plan=plan,
        safe_mode=target.safe_mode,
    )
    return generation, plan


def materialise(work: Work, state: Migration) -> events.FilesMaterialised:
    """Make SAM's files follow the generation that serves; chunks it does not know yet are embedded first."""
    generation, moved = state.generation, state.returned or state.committed
    if generation is None or moved is None:
        raise IntegrityError(f"{state.migration_id} has nothing to materialise")
    staging.complete(work, generation.generation_id, generation.embedder)
    replaced = work.generation(generation.base)
    before = replaced.embedder if replaced else staging.HOST_EMBEDDER
    edited, written = projection.follow(work.world, generation, moved.changes, before=before, heed=work.heed)
    return events.FilesMaterialised(
        fields=edited.applied, chunks=written.written, without_vector=written.without_vector, kept=edited.kept
    )


def _captured(work: Work) -> Generation | None:
    """Seal generation 0, what SAM serves today, where this is the first run."""
    capture_id = work.state.begun.capture_id
    if capture_id is None:
        return None
    staging.capture(work)
    return _seal(
        work,
        capture_id,
        base=None,
        derived_from=None,
        engine=work.world.host.served_engine(),
        embedder=staging.HOST_EMBEDDER,
        plan=work.world.host.capture(),
        safe_mode=False,
    )


def _seal(
    work: Work,
    generation_id: str,
    *,
    base: str | None,
    derived_from: str | None,
    engine: ServedEngine,
    embedder: Embedder,
    plan: FieldPlan,
    safe_mode: bool,
) -> Generation:
    """Make the directory complete and durable, with the log's position and head in its manifest."""
    generations = work.world.generations
    with closing(generations.index(generation_id, dimension=embedder.dimension)) as index:
        vectors = index.seal()
    position, head = work.log_head()
    generation = Generation(
        generation_id=generation_id,
        run_id=work.state.migration_id,
        base=base,
        derived_from=derived_from,
        engine=engine,
        embedder=embedder,
        vectors=vectors,
        prompts_sha256=generations.write_prompts(generation_id, generations.prompts(generation_id)),
        adapters=plan.adapters,
        fields=plan.fields,
        safe_mode=safe_mode,
        position=position,
        head=head,
    )
    generations.seal(generation)
    return generation


def _local_now(work: Work) -> datetime:
    """Return the time as SAM's files keep it: local, without a zone."""
    return work.world.clock.now().astimezone().replace(tzinfo=None)
