"""Step `fetch`: the target model is here and verified; then the checks that need the file."""

from __future__ import annotations

from typing import TYPE_CHECKING

from sam_migrate.domain import events
from sam_migrate.domain.engine import CatalogEntry, ServedEngine
from sam_migrate.errors import BadFileError, FailedError, UnknownEngineError
from sam_migrate.steps import checks

if TYPE_CHECKING:
    from sam_migrate.domain.engine import GgufFacts
    from sam_migrate.steps.world import VerifiedModel, Work


def run(work: Work) -> events.Event:
    """Bring the model, read its header; a kept generation that has its own link needs nothing."""
    if work.target is not None:
        return _refetch(work)
    entry = work.world.host.catalog().get(work.state.required.to_engine)
    if entry is None:
        raise UnknownEngineError(
            f"'{work.state.required.to_engine}' is no longer in the model catalog",
            hint="`sam-migrate models list` shows the engines.",
        )
    model = work.obtain(entry, None)
    facts = _header(work, model)
    work.world.generations.link_model(work.state.begun.generation_id, model.path)
    return events.ModelFetched(
        engine=served_engine(entry, facts, model),
        path=work.world.relative(model.path),
        facts=facts,
        checks=checks.fetched_checks(entry, facts, model.sha256),
    )


def served_engine(entry: CatalogEntry, facts: GgufFacts, model: VerifiedModel) -> ServedEngine:
    """Describe the engine; its context is the smaller of the catalog's and the model's."""
    return ServedEngine(
        engine_id=entry.model_id,
        model_name=entry.display_name,
        family=entry.model_family,
        repository=entry.huggingface_repo,
        filename=entry.filename or model.path.name,
        quantization=entry.quantization,
        sha256=model.sha256,
        size_bytes=model.size_bytes,
        context_length=min(entry.context_length, facts.context_length),
        base_repositories=facts.base_repositories,
    )


def _header(work: Work, model: VerifiedModel) -> GgufFacts:
    """Read the header; a model that cannot be used is this run's failure, not a file the user could mend."""
    try:
        return work.world.library.header(model.path)
    except BadFileError as error:
        raise FailedError(error.message, hint="Choose another engine.") from error


def _refetch(work: Work) -> events.Event:
    """Bring back the model of a kept generation only if its own link is gone."""
    target, world = work.target, work.world
    if target is None or target.engine.sha256 is None:
        return events.StepSkipped(step="fetch", reason="the generation to go back to is served by SAM's own engine")
    if world.generations.model(target.generation_id) is not None:
        return events.StepSkipped(step="fetch", reason="the kept generation has its own link to the model")
    engine = target.engine
    entry = CatalogEntry(
        model_id=engine.engine_id,
        display_name=engine.model_name,
        description="",
        model_family=engine.family,
        huggingface_repo=engine.repository,
        filename=engine.filename,
        file_size=engine.size_bytes,
        quantization=engine.quantization,
        context_length=engine.context_length,
    )
    model = work.obtain(entry, engine.sha256)
    world.generations.link_model(target.generation_id, model.path)
    return events.ModelFetched(
        engine=engine,
        path=world.relative(model.path),
        facts=_header(work, model),
        checks=(),
    )
