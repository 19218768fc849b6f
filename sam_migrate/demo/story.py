"""The demo: a real upgrade of a temporary home, killed twice with SIGKILL, resumed, asked, rolled back and audited."""

from __future__ import annotations

import hashlib
import json
import shutil
import tempfile
import time
from contextlib import closing
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final

from sam_migrate.adapters.gguf import read_header
from sam_migrate.demo import home as sample
from sam_migrate.demo.engines import write_llama
from sam_migrate.demo.hub import LoopbackHub
from sam_migrate.demo.stage import Stage, download_under_way, embedding_under_way, fingerprint
from sam_migrate.domain import events
from sam_migrate.domain.engine import CatalogEntry
from sam_migrate.reader import EmbeddingManager, active_generation

if TYPE_CHECKING:
    from sam_migrate.demo.home import SampleHome

CHUNKS: Final = 300
FIRST: Final = "lumen-small"
SECOND: Final = "lumen-large"
FIRST_DIMENSION: Final = 64
SECOND_DIMENSION: Final = 768
PACE: Final = 4_000_000
"""Bytes a second the loopback Hub serves at: slow enough to be watched."""

NEW_TEXT: Final = "The tram to the harbour leaves at noon, and Matilda keeps the only key to the lighthouse."


def play(*, keep: bool, engine: str | None, quiet: bool) -> int:
    """Play the story in a temporary home; return 0 when every check held, else 4."""
    place = Path(tempfile.mkdtemp(prefix="sam-migrate-demo-"))
    try:
        return _play(place, engine=engine, quiet=quiet)
    finally:
        if keep:
            print(f"The home is left in {place / 'home'}.")  # noqa: T201 - the demo talks on stdout
        else:
            shutil.rmtree(place, ignore_errors=True)


def _play(place: Path, *, engine: str | None, quiet: bool) -> int:
    began = time.monotonic()
    files = _engines(place, engine)
    entries = (_entry(FIRST, files[FIRST]), _entry(SECOND, files[SECOND]))
    made = sample.make_home(place / "home", engines=entries, chunks=CHUNKS)
    repositories = {entry.huggingface_repo: {entry.filename or "": files[entry.model_id]} for entry in entries}
    with LoopbackHub(repositories, bytes_per_second=PACE) as hub:
        stage = Stage(home=made.path, endpoint=hub.endpoint, quiet=quiet)
        _introduce(stage, files)
        _first_upgrade(stage)
        before = fingerprint(made.path)
        _killed_download(stage, hub, files[SECOND], before)
        _killed_embedding(stage, before)
        _committed(stage)
        _question(stage, made)
        chunk_id = _user_adds(stage)
        _rolled_back(stage, before, chunk_id)
        _audited(stage)
    return _verdict(stage, time.monotonic() - began)


def _engines(place: Path, engine: str | None) -> dict[str, Path]:
    """Write two real GGUF engines of different dimension, or take the user's as the second."""
    first = write_llama(
        place / f"{FIRST}.gguf", seed=1, dimension=FIRST_DIMENSION, base_repository=f"example-lab/{FIRST}"
    )
    if engine is not None:
        return {FIRST: first, SECOND: Path(engine).absolute()}
    second = write_llama(
        place / f"{SECOND}.gguf", seed=2, dimension=SECOND_DIMENSION, base_repository=f"example-lab/{SECOND}"
    )
    return {FIRST: first, SECOND: second}


def _entry(model_id: str, path: Path) -> CatalogEntry:
    facts = read_header(path)
    return CatalogEntry(
        model_id=model_id,
        display_name=model_id.replace("-", " ").title(),
        description="An engine of the demo",
        model_family="llama",
        huggingface_repo=f"example-lab/{model_id}-GGUF",
        filename=path.name,
        file_size=path.stat().st_size,
        quantization="F32",
        context_length=facts.context_length,
    )


def _introduce(stage: Stage, files: dict[str, Path]) -> None:
    sizes = ", ".join(f"{name} ({path.stat().st_size / 1e6:.1f} MB)" for name, path in files.items())
    stage.say(f"A SAM home with {CHUNKS} chunks of text, two LoRA adapters, a catalog of two engines: {sizes}.")
    stage.say("A Hub on this machine serves the engines over HTTP, at the pace of a household line.")


def _first_upgrade(stage: Stage) -> None:
    stage.say(f"\n1. SAM serves {FIRST} with vectors of its own MiniLM. We take it over: {FIRST} embeds from now on.")
    code = stage.run("upgrade", FIRST, "--yes")
    stage.check("the first upgrade completes", ok=code == 0, found=f"exit status {code}")


def _killed_download(stage: Stage, hub: LoopbackHub, source: Path, before: dict[str, str]) -> None:
    stage.say(f"\n2. Now the upgrade to {SECOND}. In the middle of its download the worker gets SIGKILL.")
    worker = stage.start("upgrade", SECOND, "--yes")
    killed = stage.kill_when(worker, download_under_way)
    stored = stage.history(events.SegmentStored, "download-")[-1:]
    stage.say(f"   Killed. {sum(event.end for event in stored) / 1e6:.1f} MB were durable and verified.")
    stage.check("killed in the middle of the download", ok=killed, found="SIGKILL sent" if killed else "it was over")
    stage.check(
        "SAM's files untouched by the killed download",
        ok=fingerprint(stage.home) == before,
        found=f"{len(before)} files compared by SHA-256",
    )
    fetched = _served(hub, source)
    stage.say("   Resume: the same loop, from the log.")
    worker = stage.start("resume")
    killed = stage.kill_when(worker, embedding_under_way)
    again = _served(hub, source) - source.stat().st_size
    stage.say("   The download was completed, the engine tried in a child of its own, and re-embedding began:")
    stage.say("   SIGKILL again, in the middle of it.")
    stage.check(
        "the resumed download fetched only what was missing",
        ok=0 <= again < fetched,
        found=f"{max(0, again) / 1e6:.1f} MB fetched twice, of {source.stat().st_size / 1e6:.1f} MB",
    )
    library = stage.home / "sam/assets/core_models" / SECOND / source.name
    same = library.exists() and _sha256(library) == _sha256(source)
    stage.check("the model file has the Hub's SHA-256", ok=same, found=str(library.relative_to(stage.home)))
    stage.check("killed in the middle of re-embedding", ok=killed, found="SIGKILL sent" if killed else "it was over")


def _served(hub: LoopbackHub, source: Path) -> int:
    """Return how many bytes of the file the Hub has given away so far."""
    return sum(asked.sent for asked in hub.log if asked.method == "GET" and f"/{source.name}" in asked.path)


def _killed_embedding(stage: Stage, before: dict[str, str]) -> None:
    stage.check(
        "SAM's files untouched by the killed re-embedding",
        ok=fingerprint(stage.home) == before,
        found=f"{len(before)} files compared by SHA-256",
    )
    told = len(stage.history(events.ChunksEmbedded))
    stage.say("\n3. Resume once more. Chunks whose vectors were durable are not embedded again.")
    code = stage.run("resume")
    stage.check("the twice killed upgrade completes", ok=code == 0, found=f"exit status {code}")
    later = stage.history(events.ChunksEmbedded)[told:]
    done = later[0].done if later else 0
    stage.check("vectors made before the kill were kept", ok=done > 0, found=f"{done} of {CHUNKS} chunks")


def _committed(stage: Stage) -> None:
    committed = stage.history(events.GenerationCommitted)
    last = committed[-1].generation
    stage.say(f"\n4. The commit is one event: generation {last.generation_id} replaced {last.base}.")
    for change in committed[-1].changes:
        stage.say(f"   {change.document}: {'.'.join(change.path)}: {_short(change.before)} -> {_short(change.after)}")
    configuration = _json(stage.home / "sam_config.json")
    serves = configuration["engine_upgrade"]["active_engine_id"]
    stage.check("the configuration names the new engine", ok=serves == SECOND, found=serves)
    embeddings = _embeddings(stage.home)
    right = sum(len(vector) == last.embedder.dimension for vector in embeddings.values())
    stage.check("every chunk has a vector of the new engine", ok=right == CHUNKS, found=f"{right} of {CHUNKS}")
    registry = _json(stage.home / "models/personalized/model_registry.json")
    stage.check(
        "adapters of the former engine are off", ok=not registry["active_models"], found=f"{registry['active_models']}"
    )


def _question(stage: Stage, made: SampleHome) -> None:
    active = active_generation(stage.home)
    if active is None:
        stage.check("the new index answers", ok=False, found="no generation serves")
        return
    chunk_id, text = list(made.texts.items())[CHUNKS // 2]
    query = " ".join(text.split()[1:-1])
    stage.say(f"\n5. A question to the new index: {query!r}")
    manager = EmbeddingManager(active)
    with closing(manager):
        near = active.search(manager.embed_query(query).tolist(), limit=3)
    by_hash = {hashlib.sha256(known.encode()).hexdigest(): known for known in made.texts.values()}
    for content_hash, score in near:
        stage.say(f"   {score:.3f}  {by_hash[content_hash]}")
    found = by_hash[near[0][0]]
    stage.check("search in the new index finds the chunk", ok=found == text, found=chunk_id)


def _user_adds(stage: Stage) -> str:
    stage.say("\n6. Meanwhile a user adds a chunk, as SAM would write it.")
    chunk_id = sample.add_chunk(stage.home, NEW_TEXT, number=CHUNKS)
    stage.say(f"   memory_store/{chunk_id}.json: {NEW_TEXT}")
    return chunk_id


def _rolled_back(stage: Stage, before: dict[str, str], chunk_id: str) -> None:
    stage.say(f"\n7. Roll back: {FIRST} serves again. Text follows the user, vectors follow the generation.")
    code = stage.run("rollback", "--yes")
    stage.check("the rollback completes", ok=code == 0, found=f"exit status {code}")
    after = fingerprint(stage.home)
    same = sum(after.get(name) == digest for name, digest in before.items() if "mem_" in name)
    stage.check("the old vectors are back, bit for bit", ok=same == CHUNKS, found=f"{same} of {CHUNKS} chunk files")
    chunk = _json(stage.home / "memory_store" / f"{chunk_id}.json")
    dimension = len(chunk["embedding"] or [])
    kept = chunk["content"] == NEW_TEXT and dimension == FIRST_DIMENSION
    stage.check("the user's new chunk stayed, with a vector", ok=kept, found=f"{dimension} floats")
    registry = _json(stage.home / "models/personalized/model_registry.json")
    stage.check("the adapter is on again", ok=bool(registry["active_models"]), found=f"{registry['active_models']}")
    serves = _json(stage.home / "sam_config.json")["engine_upgrade"]["active_engine_id"]
    stage.check("the configuration names the former engine", ok=serves == FIRST, found=serves)


def _audited(stage: Stage) -> None:
    stage.say("\n8. The audit: chain, replay, derived rows, every byte on disk against the log.")
    report = stage.ask("audit", "verify", "--deep")
    found = f"{report.get('events')} events, {len(report.get('problems', []))} problems"
    stage.check("the audit is clean", ok=report.get("ok") is True and not report.get("drift"), found=found)
    stage.say(f"   {found}; head {str(report.get('head'))[:16]}")
    stage.check(
        "nothing is left to resume", ok=stage.ask("resume").get("migrations") == [], found="a second resume is a no-op"
    )


def _verdict(stage: Stage, seconds: float) -> int:
    width = max(len(known.name) for known in stage.checks)
    stage.say(f"\nWhat was checked ({seconds:.0f} s):")
    for known in stage.checks:
        stage.say(f"  {'ok  ' if known.ok else 'FAIL'}  {known.name:<{width}}  {known.found}")
    failed = sum(not known.ok for known in stage.checks)
    stage.say(f"{len(stage.checks) - failed} of {len(stage.checks)} checks hold.")
    return 4 if failed else 0


def _short(value: object) -> str:
    content = getattr(value, "content", None) if getattr(value, "present", False) else "absent"
    text = json.dumps(content)
    return text if len(text) <= 60 else text[:57] + "..."  # noqa: PLR2004 - a line's room


def _embeddings(home: Path) -> dict[str, list[float]]:
    return {path.stem: _json(path)["embedding"] or [] for path in (home / "memory_store").glob("mem_*.json")}


def _json(path: Path) -> dict[str, Any]:
    found: dict[str, Any] = json.loads(path.read_text())
    return found


def _sha256(path: Path) -> str:
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()
