"""The preflight checks, each with a stable id: facts come through the ports, verdicts are made here."""

from __future__ import annotations

from typing import TYPE_CHECKING, Final

from sam_migrate.domain.preflight import BLOCK, LATER, PASS, WARN, Check
from sam_migrate.errors import BadFileError

if TYPE_CHECKING:
    from collections.abc import Iterator

    from sam_migrate.domain.engine import CatalogEntry, GgufFacts, ProbeFacts
    from sam_migrate.domain.events import MigrationPlanned
    from sam_migrate.domain.generation import Generation
    from sam_migrate.steps.world import World

SPACE_RESERVE_BYTES: Final = 256 * 1024 * 1024
VECTOR_BYTES: Final = 4 * 4096
"""Space foreseen for one vector before the probe knows the dimension: 4096 floats."""

ARCHITECTURES_UNSUPPORTED: Final = frozenset({"clip", "t5", "t5encoder", "whisper"})


def plan_checks(world: World, plan: MigrationPlanned, target: Generation | None) -> tuple[Check, ...]:
    """Judge what can be judged now; the rest is `later`."""
    checks = [*_files(world), _writable(world), _knowledge(world), _query_side(world, plan)]
    checks += _holders(world, plan)
    if plan.target is None:
        entry, check = _engine(world, plan.to_engine)
        checks += [check, _space(world, entry), *_later()]
    else:
        checks.append(_kept(world, plan.target, target))
    checks.append(_adapters(world))
    return tuple(checks)


def _engine(world: World, engine_id: str) -> tuple[CatalogEntry | None, Check]:
    try:
        entry = world.host.catalog().get(engine_id)
    except BadFileError as error:
        return None, _block("engine", f"{error.message}", error.hint)
    if entry is None:
        return None, _block(
            "engine", f"'{engine_id}' is not in the model catalog", "`sam-migrate models list` shows the engines."
        )
    if entry.filename is None:
        return entry, _block(
            "engine",
            f"the catalog entry of '{engine_id}' has no file name: it stands for a whole repository",
            "Choose an engine whose entry names a .gguf file.",
        )
    return entry, Check(id="engine", stage="plan", verdict=PASS, message=f"{entry.display_name} is in the catalog")


def _files(world: World) -> Iterator[Check]:
    for name in ("configuration", "registry"):
        try:
            world.host.document(name)
            yield Check(id=name, stage="plan", verdict=PASS, message="parses")
        except BadFileError as error:
            yield _block(name, error.message, error.hint)


def _writable(world: World) -> Check:
    problems = world.host.unwritable()
    if problems:
        return _block("writable", "; ".join(problems), "Give this user the right to write there.")
    return Check(id="writable", stage="plan", verdict=PASS, message="SAM's files can be written")


def _knowledge(world: World) -> Check:
    dimensions: set[int] = set()
    count = 0
    try:
        for chunk in world.host.chunks():
            count += 1
            if isinstance(chunk.embedding, list) and chunk.embedding:
                dimensions.add(len(chunk.embedding))
    except BadFileError as error:
        return _block("knowledge", error.message, error.hint)
    if len(dimensions) > 1:
        return Check(
            id="knowledge",
            stage="plan",
            verdict=WARN,
            message=f"{count} chunks hold vectors of {len(dimensions)} different dimensions",
            hint="Re-embedding is the cure.",
        )
    return Check(id="knowledge", stage="plan", verdict=PASS, message=f"{count} chunks, every text present")


def _query_side(world: World, plan: MigrationPlanned) -> Check:
    side = world.host.query_side()
    if side == "stock" and plan.re_embed_knowledge and plan.target is None:
        return _block(
            "query_side",
            "SAM's code in this home embeds every query with its own MiniLM and would not find the new vectors",
            "Upgrade with --no-re-embed, or make SAM's utils/embedding_utils.py use sam_migrate.reader.",
        )
    sentence = {
        "absent": "no SAM code here: whoever queries goes through sam_migrate",
        "follows": "SAM's queries follow the active generation",
        "stock": "SAM's queries keep their own MiniLM, and its vectors stay",
    }[side]
    return Check(id="query_side", stage="plan", verdict=PASS, message=sentence)


def _holders(world: World, plan: MigrationPlanned) -> Iterator[Check]:
    for holder in world.host.holders():
        blocks = not holder.supported and plan.re_embed_knowledge and plan.target is None
        yield Check(
            id=f"vectors:{holder.name}",
            stage="plan",
            verdict=BLOCK if blocks else PASS,
            message=f"{holder.path}: {holder.reason}",
            hint="Upgrade with --no-re-embed, or move that store away." if blocks else "",
        )


def _space(world: World, entry: CatalogEntry | None) -> Check:
    model = entry.file_size if entry else 0
    needed = model + world.host.chunk_count() * VECTOR_BYTES + SPACE_RESERVE_BYTES
    free = min(world.disk.free_bytes(world.models_dir), world.disk.free_bytes(world.state_directory))
    if free < needed:
        return _block(
            "space",
            f"about {needed:,} bytes are needed (rough: model, second index, backup, reserve), {free:,} are free",
            "Free some space, or move the model library to a larger disk.",
        )
    return Check(
        id="space", stage="plan", verdict=PASS, message=f"{free:,} bytes free, about {needed:,} needed (rough)"
    )


def _adapters(world: World) -> Check:
    try:
        adapters = world.host.adapters()
    except BadFileError as error:
        return _block("adapters", error.message, error.hint)
    active = sum(adapter.is_active for adapter in adapters)
    return Check(
        id="adapters",
        stage="plan",
        verdict=WARN if active else PASS,
        message=f"{len(adapters)} adapters, {active} of them on; those trained on another base go off",
    )


def _kept(world: World, target_id: str, target: Generation | None) -> Check:
    if target is None:
        return _block(
            "kept_generation", f"no generation {target_id} is in the log", "`sam-migrate status` shows what serves."
        )
    problems = world.generations.problems(target, deep=False)
    if problems:
        return _block("kept_generation", "; ".join(problems), "Choose another generation with --to.")
    return Check(id="kept_generation", stage="plan", verdict=PASS, message=f"{target_id} is complete")


def _later() -> Iterator[Check]:
    for check, stage in (("digest", "fetched"), ("header", "fetched"), ("template", "probed"), ("dimension", "probed")):
        yield Check(id=check, stage=stage, verdict=LATER, message="judged when the model is here")


def missing_vectors(count: int) -> Check:
    """Judge chunks that nobody here can embed for the generation to come."""
    if count:
        return _block(
            "missing_vectors",
            f"{count} chunks have no vector of the generation to go back to, and its embedder is SAM's own",
            "Override it to store them without a vector until SAM embeds them again.",
        )
    return Check(id="missing_vectors", stage="plan", verdict=PASS, message="every chunk has its vector")


def fetched_checks(entry: CatalogEntry, facts: GgufFacts, sha256: str) -> tuple[Check, ...]:
    """Judge the file itself: its digest, its header, its architecture."""
    digest = Check(id="digest", stage="fetched", verdict=PASS, message=f"SHA-256 {sha256[:16]}")
    if facts.kind != "model" or facts.architecture in ARCHITECTURES_UNSUPPORTED:
        header = _block(
            "header", f"{entry.filename} is a {facts.kind} of architecture {facts.architecture}, not an engine", ""
        )
    else:
        header = Check(
            id="header",
            stage="fetched",
            verdict=PASS,
            message=f"{facts.architecture}, {facts.block_count} blocks, {facts.context_length} tokens of context",
        )
    shorter = facts.context_length < entry.context_length
    context = Check(
        id="context",
        stage="fetched",
        verdict=WARN if shorter else PASS,
        message=f"the model's context is {facts.context_length} tokens, the catalog's {entry.context_length}",
    )
    return digest, header, context


def probed_checks(facts: ProbeFacts, *, has_template: bool) -> tuple[Check, ...]:
    """Judge how the engine behaved in its child."""
    dimension = Check(
        id="dimension", stage="probed", verdict=PASS, message=f"vectors of {facts.dimension} floats, all sane"
    )
    template = Check(
        id="template",
        stage="probed",
        verdict=PASS if has_template or not facts.generates else WARN,
        message="the chat template renders" if has_template else "the model brings no chat template",
        hint="" if has_template else "The defaults of its family are used.",
    )
    return dimension, template


def _block(check: str, message: str, hint: str) -> Check:
    return Check(id=check, stage="plan", verdict=BLOCK, message=message, hint=hint)
