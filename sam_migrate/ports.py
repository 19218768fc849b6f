"""Protocols for the world outside: what steps may ask of the network, the disk, the engine and SAM's files."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Protocol

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
    from contextlib import AbstractContextManager
    from datetime import datetime
    from pathlib import Path

    import numpy as np
    from numpy.typing import NDArray

    from sam_migrate.domain.engine import CatalogEntry, GgufFacts, ProbeFacts, ServedEngine
    from sam_migrate.domain.generation import (
        Adapter,
        AdapterVerdict,
        Chunk,
        Field,
        FieldChange,
        FieldValue,
        Generation,
        VectorSet,
    )
    from sam_migrate.model_interface import BaseModelEngine

    Vectors = NDArray[np.float32]
    Heed = Callable[[], None]
    """Called at least every 0.2 s by whatever takes long; raises StopRequested when the run was asked to stop."""
    Advance = Callable[[int], None]
    """Called with the number of bytes (or items) done since the last call."""


class Clock(Protocol):
    """Time; the tests have their own."""

    def now(self) -> datetime:
        """Return the time in UTC, with its zone."""

    def monotonic(self) -> float:
        """Return seconds that never go back."""

    def pause(self, seconds: float) -> None:
        """Let that many seconds go by."""


class Locks(Protocol):
    """Locks between processes that the kernel releases when their holder dies."""

    def hold(self, name: str) -> AbstractContextManager[None]:
        """Hold the lock for the length of the block; raise LockedError at once when a living process has it."""

    def holder(self, name: str) -> int | None:
        """Return the pid of the living process that holds the lock, or None."""


@dataclass(frozen=True, slots=True, kw_only=True)
class RemoteFile:
    """A file on the Hub, pinned to a commit; `url` is the Hub's own resolve URL, without a token."""

    repository: str
    filename: str
    commit: str
    size_bytes: int
    sha256: str
    url: str


@dataclass(frozen=True, slots=True, kw_only=True)
class Segment:
    """The bytes `start` to `end` (exclusive) of a partial, durable on disk, and their SHA-256."""

    start: int
    end: int
    sha256: str


class Hub(Protocol):
    """The model hub's metadata."""

    def resolve(self, repository: str, filename: str, *, revision: str | None) -> RemoteFile:
        """Pin commit, size and SHA-256; raise HubRefusedError (final) or WaitingError (network, 429, 5xx)."""


class Transfer(Protocol):
    """The bytes of a remote file."""

    def fetch(
        self,
        remote: RemoteFile,
        partial: Path,
        *,
        segments: Sequence[Segment],
        checkpoint: Callable[[Segment], None],
        heed: Heed,
        advance: Advance,
    ) -> str:
        """Complete `partial` and return its SHA-256 over all bytes.

        Trusts no byte that is not in `segments` (re-hashed first; cut back to the first damaged one).
        `checkpoint` is called only after the segment's bytes are durable. Raises WaitingError when the
        network's budget is spent or the disk is full, HubRefusedError when the answer is final.
        """


class Library(Protocol):
    """Model files on disk: `<models_dir>/<id>/<filename>`, partials keyed by digest beside them."""

    def path(self, model_id: str, filename: str) -> Path:
        """Return where the model's file is or would be; raise RefusedError for names that could leave the library."""

    def partial(self, sha256: str) -> Path:
        """Return the partial's path, its directory made."""

    def publish(self, partial: Path, model_id: str, filename: str) -> Path:
        """Give the verified partial its final name, durably; the name it had is gone afterwards. Idempotent."""

    def digest(self, path: Path, *, heed: Heed, advance: Advance) -> str:
        """Return the SHA-256 of the file in lower-case hex."""

    def header(self, path: Path) -> GgufFacts:
        """Read and check the GGUF header; raise BadFileError saying what is wrong."""


class VectorIndex(Protocol):
    """The vectors of one generation, keyed by content hash; durable batch by batch."""

    def missing(self, hashes: Iterable[str]) -> list[str]:
        """Return those hashes, in the given order and once each, that have no vector yet."""

    def put(self, hashes: Sequence[str], vectors: Vectors) -> None:
        """Store one batch (n hashes, n x dimension float32) in one durable transaction. Idempotent."""

    def capture(self, chunks: Iterable[Chunk]) -> int:
        """Keep the chunks' own JSON embedding values, bit for bit, keyed by chunk and hash; return how many are new."""

    def value(self, chunk: Chunk) -> FieldValue:
        """Return the JSON value this generation gives the chunk's `embedding`; absent when it has none."""

    def search(self, vector: Sequence[float], *, limit: int) -> list[tuple[str, float]]:
        """Return the content hashes of the nearest vectors and their dot products, best first."""

    def copy_from(self, source: VectorIndex) -> None:
        """Take over every vector of another generation's index of the same embedder."""

    def seal(self) -> VectorSet:
        """Make everything durable and return count and digest of what is there; later additions are kept apart."""

    def sealed(self) -> VectorSet:
        """Compute count and digest of what was there when it was sealed."""

    def close(self) -> None:
        """Release the file."""


class Generations(Protocol):
    """The directories `generations/<id>/`."""

    def index(self, generation_id: str, *, dimension: int) -> VectorIndex:
        """Open the generation's vectors, making them when they are not there yet."""

    def cache(self, identity: str, *, dimension: int) -> VectorIndex:
        """Open the cache of vectors made by this embedder, which outlives the runs that fill it."""

    def drop_caches(self) -> None:
        """Remove the caches of vectors. Idempotent."""

    def link_model(self, generation_id: str, source: Path, *, role: str = "model") -> Path:
        """Give the generation its own hard link to a model (a copy where links fail). Idempotent.

        `role` is `model`, or `embedder` where another engine than the generation's own makes its vectors.
        """

    def model(self, generation_id: str, *, role: str = "model") -> Path | None:
        """Return the generation's model file in this role, or None when it has none."""

    def files(self, generation_id: str) -> Iterator[tuple[str, Path]]:
        """Yield name and path of the generation's vectors and prompts, where they exist."""

    def write_prompts(self, generation_id: str, prompts: Mapping[str, Any]) -> str:
        """Store the prompt set durably and return its SHA-256."""

    def prompts(self, generation_id: str) -> dict[str, Any]:
        """Read the prompt set."""

    def seal(self, generation: Generation) -> None:
        """Write the manifest with the digests of everything in the directory, and make all of it durable."""

    def manifest(self, generation_id: str) -> Generation | None:
        """Read the generation back from its manifest; None when it was never sealed."""

    def problems(self, generation: Generation, *, deep: bool) -> list[str]:
        """Compare the directory with what the log says of it; `deep` reads every byte. Empty when it is right."""

    def ids(self) -> list[str]:
        """Return the ids of all directories there, sealed or not."""

    def remove(self, generation_id: str) -> None:
        """Remove the directory and all in it. Idempotent."""


@dataclass(frozen=True, slots=True, kw_only=True)
class BackupFacts:
    """A backup as it was read back: SHA-256 of its manifest, number of files, their bytes."""

    manifest_sha256: str
    files: int
    size_bytes: int


class Backups(Protocol):
    """Content-addressed copies of files, one manifest a run."""

    def take(self, run_id: str, files: Iterable[tuple[str, Path]], *, heed: Heed, advance: Advance) -> BackupFacts:
        """Copy the named files, write the manifest, read everything back; continues where a crash left off."""

    def problems(self, run_id: str, *, manifest_sha256: str) -> list[str]:
        """Compare the backup with its manifest, and the manifest with the log's digest. Empty when it is right."""

    def remove(self, run_id: str) -> None:
        """Remove the run's manifest and the objects no other manifest names. Idempotent."""


class Engines(Protocol):
    """Loaded engines, each in a child process of its own."""

    def probe(self, engine: ServedEngine, path: Path, *, safe_mode: bool, heed: Heed) -> ProbeFacts:
        """Load, render the chat template, generate, embed, measure, unload; raise EngineError saying what failed."""

    def open(self, engine: ServedEngine, path: Path, *, safe_mode: bool, heed: Heed) -> BaseModelEngine:
        """Return the engine, loaded; the caller unloads it. Raise EngineError when it does not load."""


@dataclass(frozen=True, slots=True, kw_only=True)
class EditReport:
    """What an edit of a document did: fields set now, fields the user changed since and keeps."""

    applied: int
    kept: tuple[FieldChange, ...]


@dataclass(frozen=True, slots=True, kw_only=True)
class FieldPlan:
    """The fields of a generation to come: what changes now, what it owns then, who may stay on, what the user keeps."""

    changes: tuple[FieldChange, ...]
    fields: tuple[Field, ...]
    adapters: tuple[AdapterVerdict, ...]
    kept: tuple[FieldChange, ...] = ()


@dataclass(frozen=True, slots=True, kw_only=True)
class VectorReport:
    """What materialising did: chunk files rewritten, already right, and left without a vector."""

    written: int
    unchanged: int
    without_vector: int


@dataclass(frozen=True, slots=True, kw_only=True)
class Holder:
    """A store of vectors in SAM's home; `supported` tells whether we can re-embed it."""

    name: str
    path: str
    supported: bool
    reason: str


class Edits(Protocol):
    """A batch of edits of files that other programs may write at any moment."""

    def apply(self, path: Path, change: Callable[[bytes], bytes | None]) -> bool:
        """Edit one file by exchange: read, `change`, write beside, fsync, exchange the names, look at the former.

        `change` gets the bytes there are now and returns the new ones, or None to leave them; it is called again
        with what somebody else wrote meanwhile. Returns whether the file was rewritten; False too when it is gone.
        """


class Disk(Protocol):
    """What SAM's rooms need of the file system."""

    def edits(self) -> AbstractContextManager[Edits]:
        """Open a batch; on leaving it the directories are fsynced once and the displaced files removed."""

    def recover(self, directory: Path) -> int:
        """Deal with what a killed batch left in the directory, losing nobody's text; return how many files."""

    def write(self, path: Path, content: bytes) -> None:
        """Write a file of ours: temporary beside it, fsync, rename, directory fsync."""

    def free_bytes(self, path: Path) -> int:
        """Return the bytes free for us on the file system that holds the path, or its nearest parent there is."""

    def unwritable(self, path: Path) -> str | None:
        """Return why the file or directory cannot be written, or None when it can."""


class Host(Protocol):
    """SAM's own files, by field; everything read here is checked, everything else in them is kept."""

    def catalog(self) -> dict[str, CatalogEntry]:
        """Read the model catalog (the documented default entries when there is no file); raise BadFileError."""

    def document(self, name: str) -> dict[str, Any]:
        """Parse `configuration` or `registry`; {} when there is no such file; raise BadFileError."""

    def values(self, name: str, paths: Sequence[tuple[str, ...]]) -> dict[tuple[str, ...], FieldValue]:
        """Return the live values of those fields of a document."""

    def served_engine(self) -> ServedEngine:
        """Describe the engine SAM's configuration names now; its digest is unknown."""

    def capture(self) -> FieldPlan:
        """Take the fields of ours as they are now, changing nothing."""

    def plan_upgrade(self, engine: ServedEngine, *, model_path: str, at: datetime, migration_id: str) -> FieldPlan:
        """Plan the fields for serving `engine`; `at` is local time, `model_path` what SAM shall open."""

    def plan_return(self, active: Generation, target: Generation, *, at: datetime, migration_id: str) -> FieldPlan:
        """Plan the fields for going back to a kept generation: only what still is as `active` set it."""

    def build_prompts(self, family: str, chat_template: str | None) -> dict[str, Any]:
        """Compose the prompt set of a family of engines."""

    def edit(self, changes: Sequence[FieldChange]) -> EditReport:
        """Apply field changes to the documents by exchange, three-way; fsync. Idempotent, safe at any time."""

    def chunks(self) -> Iterator[Chunk]:
        """Read every `memory_store/mem_*.json` in the order of ids; raise BadFileError naming the one that fails."""

    def chunk_count(self) -> int:
        """Count the chunk files without reading them."""

    def write_vectors(
        self, value: Callable[[Chunk], FieldValue], *, heed: Heed, advance: Advance, keep_unknown: bool = False
    ) -> VectorReport:
        """Set every chunk's `embedding` to what `value` gives, by exchange, text and all else kept as it is.

        A chunk for which `value` is absent is stored with a null vector, or left as it is with `keep_unknown`.
        """

    def adapters(self) -> tuple[Adapter, ...]:
        """List the LoRA adapters in the registry."""

    def adapter_files(self) -> Iterator[tuple[str, Path]]:
        """Yield name (relative, safe) and path of every file of every registered adapter that exists."""

    def document_files(self) -> Iterator[tuple[str, Path]]:
        """Yield name and path of the documents that exist."""

    def holders(self) -> tuple[Holder, ...]:
        """Find every store of vectors in this home."""

    def query_side(self) -> str:
        """Tell who queries this home: `absent` (no SAM code), `follows` (goes through us) or `stock`."""

    def unwritable(self) -> list[str]:
        """Return the documents and directories of ours that cannot be written, with the reason."""

    def add_downloaded(self, entry: CatalogEntry, path: Path, *, at: datetime, size_bytes: int, sha256: str) -> None:
        """Enter the model in SAM's `downloaded_models.json`, every other entry kept."""

    def remove_downloaded(self, model_id: str) -> None:
        """Take the model out of SAM's `downloaded_models.json`. Idempotent."""


class Observer(Protocol):
    """Whoever watches a run in this process."""

    def started(self, step: str, sentence: str) -> None:
        """Hear that a step began."""

    def progressed(self, *, done: float, total: float, unit: str) -> None:
        """Hear how far the step is; `unit` is `bytes`, `chunks` or `files`."""

    def noted(self, sentence: str) -> None:
        """Hear something worth a line."""
