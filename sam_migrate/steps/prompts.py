"""Step `prompts`: the new prompt set, from the model's own chat template and its family's defaults, staged."""

from __future__ import annotations

from typing import TYPE_CHECKING

from sam_migrate.domain import events

if TYPE_CHECKING:
    from sam_migrate.steps.world import Work


def run(work: Work) -> events.Event:
    """Stage the set; without the option the generation takes over the one that serves."""
    world, state = work.world, work.state
    generation_id = state.begun.generation_id
    if not state.required.update_prompt_templates:
        kept = world.generations.prompts(work.base.generation_id) if work.base else {}
        world.generations.write_prompts(generation_id, kept)
        return events.StepSkipped(step="prompts", reason="not asked for: the prompts that serve are kept")
    fetched = state.fetched
    family = fetched.engine.family if fetched else ""
    template = fetched.facts.chat_template if fetched and fetched.facts else None
    sha256 = world.generations.write_prompts(generation_id, world.host.build_prompts(family, template))
    return events.PromptsStaged(sha256=sha256)
