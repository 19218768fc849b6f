"""Step `preflight`: the checks that can be judged before anything is fetched; it changes nothing."""

from __future__ import annotations

from typing import TYPE_CHECKING

from sam_migrate.domain.events import PreflightPassed
from sam_migrate.errors import BadFileError
from sam_migrate.steps import checks

if TYPE_CHECKING:
    from sam_migrate.steps.world import Work


def run(work: Work) -> PreflightPassed:
    """Judge; `decide` turns a block into the run's failure."""
    world, plan = work.world, work.state.required
    judged = checks.plan_checks(world, plan, work.target)
    if work.target is not None and work.target.embedder.provider == "host":
        judged = (*judged, checks.missing_vectors(_uncovered(work)))
    return PreflightPassed(checks=judged)


def _uncovered(work: Work) -> int:
    """Count the chunks for which the kept generation of SAM's own embedder has no vector."""
    target = work.target
    if target is None:
        return 0
    index = work.world.generations.index(target.generation_id, dimension=target.embedder.dimension)
    try:
        return sum(not index.value(chunk).present for chunk in work.world.host.chunks())
    except BadFileError:
        return 0
    finally:
        index.close()
