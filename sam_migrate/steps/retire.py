"""Step `retire`: what no kept generation reaches is collected; and what a run staged when it ends without a commit."""

from __future__ import annotations

from typing import TYPE_CHECKING, Final

if TYPE_CHECKING:
    from sam_migrate.domain.generation import Home
    from sam_migrate.domain.migration import Migration
    from sam_migrate.steps.world import World

KEPT_PREVIOUS: Final = 2


def collect(world: World, home: Home) -> list[str]:
    """Remove the directories of generations nobody can reach any more; return their ids. Never fails a run."""
    kept = {generation.generation_id for generation in home.kept(KEPT_PREVIOUS)}
    gone = [generation_id for generation_id in world.generations.ids() if generation_id not in kept]
    for generation_id in gone:
        world.generations.remove(generation_id)
    world.generations.drop_caches()
    return gone


def discard(world: World, state: Migration) -> None:
    """Remove what an uncommitted run staged: its generation, its capture, its backup. Idempotent."""
    if state.started is None:
        return
    world.generations.remove(state.started.generation_id)
    if state.started.capture_id is not None:
        world.generations.remove(state.started.capture_id)
    world.backups.remove(state.migration_id)
    world.backups.remove(f"{state.migration_id}.cutover")
