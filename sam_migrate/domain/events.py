"""What happened, in the past tense; each class declares the trigger it fires in its run's machine."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

from sam_migrate.domain.engine import CatalogEntry, GgufFacts, ProbeFacts, ServedEngine  # noqa: TC001 - decoded at run time
from sam_migrate.domain.generation import FieldChange, Generation  # noqa: TC001 - decoded at run time
from sam_migrate.domain.preflight import Check  # noqa: TC001 - decoded at run time


@dataclass(frozen=True, slots=True, kw_only=True)
class Event:
    """Anything that happened; `record` changes no state of the machine."""

    trigger: ClassVar[str] = "record"


# Of every run.


@dataclass(frozen=True, slots=True, kw_only=True)
class RunClaimed(Event):
    """A process began to work on the run; what it waited or paused for is over."""

    runner: str
    pid: int


@dataclass(frozen=True, slots=True, kw_only=True)
class CancelRequested(Event):
    """Somebody asked for the run to be cancelled."""


@dataclass(frozen=True, slots=True, kw_only=True)
class PauseRequested(Event):
    """Somebody asked for the run to stop and wait for `resume`."""


@dataclass(frozen=True, slots=True, kw_only=True)
class RunPaused(Event):
    """The worker stopped because it was asked to pause."""


@dataclass(frozen=True, slots=True, kw_only=True)
class RunInterrupted(Event):
    """The worker was stopped by a signal and left in good order."""


@dataclass(frozen=True, slots=True, kw_only=True)
class RunWaited(Event):
    """The worker stopped because the world was at fault; `waiting_for` is the cause in one word."""

    waiting_for: str
    message: str
    hint: str = ""


# Of downloads.


@dataclass(frozen=True, slots=True, kw_only=True)
class DownloadRequested(Event):
    """Somebody asked for a model of the catalog; `requested_by` is a migration's id, or `user`."""

    trigger: ClassVar[str] = "create"
    download_id: str
    entry: CatalogEntry
    requested_by: str
    requested_at: str
    retry_of: str | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class DownloadStarted(Event):
    """The Hub's file is pinned: this commit, size and digest, whatever the branch does later."""

    trigger: ClassVar[str] = "start"
    repository: str
    filename: str
    commit: str
    size_bytes: int
    sha256: str
    url: str


@dataclass(frozen=True, slots=True, kw_only=True)
class SegmentStored(Event):
    """The bytes `start` to `end` are durable in the partial and have this digest; overlapping ones are superseded."""

    start: int
    end: int
    sha256: str


@dataclass(frozen=True, slots=True, kw_only=True)
class DownloadVerified(Event):
    """Every byte is there and the digest is the Hub's; the file may have its name."""

    trigger: ClassVar[str] = "commit"
    sha256: str


@dataclass(frozen=True, slots=True, kw_only=True)
class DownloadCompleted(Event):
    """The file has its final name, durably; `path` is relative to home where it lies below it."""

    trigger: ClassVar[str] = "complete"
    path: str


@dataclass(frozen=True, slots=True, kw_only=True)
class DownloadFailed(Event):
    """The download ended without its file."""

    trigger: ClassVar[str] = "fail"
    reason: str
    exit_code: int = 4


@dataclass(frozen=True, slots=True, kw_only=True)
class DownloadCancelled(Event):
    """The download ended on request; verified bytes stay in the cache."""

    trigger: ClassVar[str] = "cancel"


# Of migrations.


@dataclass(frozen=True, slots=True, kw_only=True)
class MigrationPlanned(Event):
    """A migration was asked for; `target` is the generation to go back to, for a rollback."""

    trigger: ClassVar[str] = "create"
    migration_id: str
    from_engine: str
    to_engine: str
    user_id: str
    created_at: str
    backup_lora_adapters: bool
    re_embed_knowledge: bool
    update_prompt_templates: bool
    affected_lora_adapters: tuple[str, ...] = ()
    knowledge_base_size: int = 0
    estimated_duration_minutes: int = 0
    checks: tuple[Check, ...] = ()
    target: str | None = None
    retry_of: str | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class CheckOverridden(Event):
    """The user takes responsibility for a check that blocks."""

    check: str
    reason: str


@dataclass(frozen=True, slots=True, kw_only=True)
class MigrationStarted(Event):
    """The run left the plan: it knows what serves now, and which generation it builds on top."""

    trigger: ClassVar[str] = "start"
    from_engine: str
    generation_id: str
    capture_id: str | None
    base: str | None
    home_version: int


@dataclass(frozen=True, slots=True, kw_only=True)
class StepStarted(Event):
    """The intent: this step's effects may be on disk from here on; `attempt` counts starts without progress."""

    step: str
    attempt: int


@dataclass(frozen=True, slots=True, kw_only=True)
class StepSkipped(Event):
    """The step has nothing to do, and why."""

    step: str
    reason: str


@dataclass(frozen=True, slots=True, kw_only=True)
class PreflightPassed(Event):
    """Every check that can be judged now lets the run go on."""

    checks: tuple[Check, ...]


@dataclass(frozen=True, slots=True, kw_only=True)
class DownloadJoined(Event):
    """The run's model comes by this download, so far along; `started` tells whether the run began it."""

    download_id: str
    started: bool
    done_bytes: int = 0


@dataclass(frozen=True, slots=True, kw_only=True)
class ModelFetched(Event):
    """The target model is here and verified; the checks that need the file let the run go on."""

    engine: ServedEngine
    path: str
    facts: GgufFacts | None
    checks: tuple[Check, ...]


@dataclass(frozen=True, slots=True, kw_only=True)
class EngineProbed(Event):
    """A child process loaded the engine and it works; the last checks let the run go on."""

    engine: ServedEngine
    facts: ProbeFacts
    embedder_identity: str
    checks: tuple[Check, ...]


@dataclass(frozen=True, slots=True, kw_only=True)
class BackupTaken(Event):
    """What can be lost is copied and read back; this is the manifest's digest."""

    manifest_sha256: str
    files: int
    size_bytes: int


@dataclass(frozen=True, slots=True, kw_only=True)
class ChunksEmbedded(Event):
    """So many of the chunks have a durable vector in the new index."""

    done: int
    total: int


@dataclass(frozen=True, slots=True, kw_only=True)
class IndexBuilt(Event):
    """Every chunk there was has its vector; the rate is chunks per second of this attempt."""

    chunks: int
    vectors: int
    chunks_per_second: float


@dataclass(frozen=True, slots=True, kw_only=True)
class PromptsStaged(Event):
    """The new prompt set lies in the generation."""

    sha256: str


@dataclass(frozen=True, slots=True, kw_only=True)
class RehearsalPassed(Event):
    """Everything staged is complete; of `queries` chunks asked with half of their words `found` came back."""

    queries: int
    found: int


@dataclass(frozen=True, slots=True, kw_only=True)
class GenerationCommitted(Event):
    """The pointer moved: this generation serves. Appended to the run and to `home` in one transaction."""

    trigger: ClassVar[str] = "commit"
    generation: Generation
    reason: str
    changes: tuple[FieldChange, ...]


@dataclass(frozen=True, slots=True, kw_only=True)
class GenerationReturned(Event):
    """Verification failed and the pointer moved back; the generation is in `home`, the reason here."""

    trigger: ClassVar[str] = "return"
    generation: Generation
    reason: str
    changes: tuple[FieldChange, ...]


@dataclass(frozen=True, slots=True, kw_only=True)
class ReturnRequested(Event):
    """Somebody asked an open run that is past its commit to go back to its base."""


@dataclass(frozen=True, slots=True, kw_only=True)
class FilesMaterialised(Event):
    """SAM's files follow the pointer: so many fields and chunk files written, so many kept as the user has them."""

    fields: int
    chunks: int
    without_vector: int
    kept: tuple[FieldChange, ...]


@dataclass(frozen=True, slots=True, kw_only=True)
class EngineVerified(Event):
    """The new configuration was loaded and answers; `checked` says what was tried."""

    checked: tuple[str, ...]


@dataclass(frozen=True, slots=True, kw_only=True)
class MigrationCompleted(Event):
    """The migration is done."""

    trigger: ClassVar[str] = "complete"


@dataclass(frozen=True, slots=True, kw_only=True)
class FailureFound(Event):
    """The run cannot reach its goal: it removes what it staged, then it fails for this reason."""

    reason: str
    exit_code: int
    checks: tuple[Check, ...] = ()


@dataclass(frozen=True, slots=True, kw_only=True)
class MigrationFailed(Event):
    """The migration ended without its goal; what served before serves."""

    trigger: ClassVar[str] = "fail"
    reason: str
    exit_code: int
    checks: tuple[Check, ...] = ()


@dataclass(frozen=True, slots=True, kw_only=True)
class MigrationCancelled(Event):
    """The migration ended on request before its commit; nothing of SAM's changed."""

    trigger: ClassVar[str] = "cancel"


# Of the library: facts, no machine.


@dataclass(frozen=True, slots=True, kw_only=True)
class ModelRecorded(Event):
    """A verified model file is in the library under this id; `path` is relative to home where it lies below it."""

    model_id: str
    path: str
    size_bytes: int
    sha256: str
    entry: CatalogEntry
    recorded_at: str
