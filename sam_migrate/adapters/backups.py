"""Content-addressed copies of files: `objects/<aa>/<sha256>`, and one manifest a run that names them.

A copy is never a link to its original: what is overwritten in place must still be here.
"""

from __future__ import annotations

import hashlib
import os
import re
import stat
from concurrent.futures import CancelledError, Future, ThreadPoolExecutor
from contextlib import suppress
from dataclasses import dataclass, field
from pathlib import PurePosixPath
from threading import Event
from typing import TYPE_CHECKING, Final

import msgspec

from sam_migrate.adapters.durable import (
    make_directory,
    sync_descriptor,
    sync_directory,
    translate,
    write_all,
    write_durable,
)
from sam_migrate.errors import BadFileError, FailedError, IntegrityError, RefusedError
from sam_migrate.ports import BackupFacts

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator
    from pathlib import Path

    from sam_migrate.ports import Advance, Heed

BLOCK_BYTES: Final = 4 << 20
# So many copies may wait for their fsync and read-back, which go on while the next file is copied; a kill costs those.
PENDING_MAX: Final = 256
THREADS: Final = 8
LISTEN_SECONDS: Final = 0.1

_RUN: Final = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]{0,120}")
_OBJECT: Final = re.compile(r"[0-9a-f]{64}")
_SCHEMA: Final = "sam-migrate/backup/1"


class _Entry(msgspec.Struct, frozen=True, kw_only=True):
    name: str
    sha256: str
    size_bytes: int
    mode: int


class _Manifest(msgspec.Struct, frozen=True, kw_only=True):
    schema: str
    run_id: str
    files: tuple[_Entry, ...]


@dataclass(frozen=True, slots=True, kw_only=True)
class _Copy:
    """A temporary that holds the bytes with this digest; `settled` gives what it reads back as once it is durable."""

    temporary: Path
    sha256: str
    settled: Future[str]


@dataclass(slots=True, kw_only=True)
class _Taking:
    """What one `take` works with, and how far it is."""

    heed: Heed
    advance: Advance
    hasher: ThreadPoolExecutor
    settlers: ThreadPoolExecutor
    stopped: Event = field(default_factory=Event)
    entries: dict[str, _Entry] = field(default_factory=dict)
    pending: list[_Copy] = field(default_factory=list)
    verified: set[str] = field(default_factory=set)
    sizes: set[int] = field(default_factory=set)
    serial: int = 0


class ContentBackups:
    """The Backups port below one directory; one run takes a backup at a time."""

    def __init__(self, root: Path) -> None:
        """Keep the directory; it is made with the first backup."""
        self._root = root
        self._objects = root / "objects"
        self._manifests = root / "manifests"
        self._incoming = root / "incoming"

    def take(self, run_id: str, files: Iterable[tuple[str, Path]], *, heed: Heed, advance: Advance) -> BackupFacts:
        """Copy the named files, write the manifest, read everything back; continues where a crash left off.

        A file that vanishes before its turn is left out: its user deleted it.
        """
        path = self._manifest_path(run_id)
        for directory in (self._objects, self._manifests, self._incoming):
            make_directory(directory, mode=0o700)
        self._drop_incoming()
        with ThreadPoolExecutor(1) as hasher, ThreadPoolExecutor(THREADS) as settlers:
            taking = _Taking(heed=heed, advance=advance, hasher=hasher, settlers=settlers)
            taking.sizes.update(whole.stat().st_size for whole in self._all_objects())
            try:
                for name, source in files:
                    with suppress(FileNotFoundError):
                        self._take_one(taking, _checked(name), source)
                    if len(taking.pending) >= PENDING_MAX:
                        self._settle(taking)
                self._settle(taking)
            finally:
                taking.stopped.set()
        self._drop_incoming()
        entries = tuple(sorted(taking.entries.values(), key=lambda entry: entry.name))
        content = msgspec.json.encode(_Manifest(schema=_SCHEMA, run_id=run_id, files=entries), order="sorted")
        # Last: a manifest names only objects that are durable and were read back.
        write_durable(path, content, mode=0o600)
        return BackupFacts(
            manifest_sha256=hashlib.sha256(content).hexdigest(),
            files=len(entries),
            size_bytes=sum(entry.size_bytes for entry in entries),
        )

    def problems(self, run_id: str, *, manifest_sha256: str) -> list[str]:
        """Compare the backup with its manifest, and the manifest with the log's digest. Empty when it is right."""
        path = self._manifest_path(run_id)
        try:
            with translate(path):
                content = path.read_bytes()
        except FileNotFoundError:
            return [f"{path} is missing"]
        found = []
        if hashlib.sha256(content).hexdigest() != manifest_sha256:
            found.append(f"{path} is not the manifest that was recorded")
        try:
            manifest = msgspec.json.decode(content, type=_Manifest)
        except (msgspec.DecodeError, UnicodeDecodeError):
            return [*found, f"{path} is damaged"]
        for entry in manifest.files:
            whole = self._object(entry.sha256)
            try:
                digest, _ = _sha256(whole, _nothing)
            except FileNotFoundError:
                found.append(f"{entry.name}: its copy {whole} is missing")
            else:
                if digest != entry.sha256:
                    found.append(f"{entry.name}: its copy {whole} is damaged")
        return found

    def remove(self, run_id: str) -> None:
        """Remove the run's manifest and the objects no other manifest names. Idempotent."""
        path = self._manifest_path(run_id)
        if not self._manifests.is_dir():
            return
        # The others are read before anything goes: one that cannot be read might name any object.
        kept = {
            entry.sha256 for other in self._manifests.glob("*.json") if other != path for entry in _read(other).files
        }
        with translate(path):
            path.unlink(missing_ok=True)
            # Durable before its objects go: a manifest that comes back must not name what is gone.
            sync_directory(self._manifests)
            for whole in self._all_objects():
                if whole.name not in kept:
                    whole.unlink(missing_ok=True)

    def _take_one(self, taking: _Taking, name: str, source: Path) -> None:
        with translate(source):
            facts = source.stat()
            if not stat.S_ISREG(facts.st_mode):
                raise BadFileError(str(source), "is not a regular file and cannot be backed up")
            # Only where a copy of the same size is there can reading first save the copying.
            sha256, size = _sha256(source, taking.heed) if facts.st_size in taking.sizes else ("", 0)
            if sha256 and self._is_here(taking, sha256):
                taking.advance(size)
            else:
                sha256, size = self._copy(taking, source)
        taking.entries[name] = _Entry(name=name, sha256=sha256, size_bytes=size, mode=stat.S_IMODE(facts.st_mode))

    def _is_here(self, taking: _Taking, sha256: str) -> bool:
        """Tell whether the object is there and verifies, or is on its way; a damaged one will be replaced."""
        if sha256 in taking.verified or any(copy.sha256 == sha256 for copy in taking.pending):
            return True
        try:
            right = _sha256(self._object(sha256), taking.heed)[0] == sha256
        except FileNotFoundError:
            return False
        if right:
            taking.verified.add(sha256)
        return right

    def _copy(self, taking: _Taking, source: Path) -> tuple[str, int]:
        taking.serial += 1
        temporary = self._incoming / str(taking.serial)
        sha256, size = _copy_hashing(source, temporary, taking)
        settled = taking.settlers.submit(_settled_digest, temporary, taking.stopped)
        taking.pending.append(_Copy(temporary=temporary, sha256=sha256, settled=settled))
        taking.sizes.add(size)
        return sha256, size

    def _settle(self, taking: _Taking) -> None:
        """Wait until the copies are durable and read back, and give them their names."""
        directories = set()
        for copy in taking.pending:
            if _listening(copy.settled, taking.heed) != copy.sha256:
                raise FailedError(
                    f"{copy.temporary}: the copy does not read back as it was written",
                    hint="The disk or the memory is failing; check both before trying again.",
                )
            target = self._object(copy.sha256)
            make_directory(target.parent, mode=0o700)
            with translate(target):
                copy.temporary.replace(target)
            directories.add(target.parent)
            taking.verified.add(copy.sha256)
        for directory in directories:
            sync_directory(directory)
        taking.pending.clear()

    def _drop_incoming(self) -> None:
        with translate(self._incoming):
            for leftover in self._incoming.iterdir():
                leftover.unlink(missing_ok=True)

    def _all_objects(self) -> Iterator[Path]:
        return (whole for whole in self._objects.glob("??/*") if _OBJECT.fullmatch(whole.name))

    def _object(self, sha256: str) -> Path:
        if not _OBJECT.fullmatch(sha256):
            raise IntegrityError(f"{self._manifests}: {sha256!r} is no SHA-256")
        return self._objects / sha256[:2] / sha256

    def _manifest_path(self, run_id: str) -> Path:
        if not _RUN.fullmatch(run_id):
            raise RefusedError(f"{run_id!r} cannot be the id of a run")
        return self._manifests / f"{run_id}.json"


def _checked(name: str) -> str:
    """Refuse a name that could leave the directory it is restored into."""
    path = PurePosixPath(name)
    if not path.parts or path.is_absolute() or ".." in path.parts or "\0" in name or "\\" in name:
        raise RefusedError(f"{name!r} cannot be the name of a file in a backup")
    return name


def _copy_hashing(source: Path, target: Path, taking: _Taking) -> tuple[str, int]:
    """Copy the bytes and hash them on another thread meanwhile; return SHA-256 and size of what was read."""
    digest, size = hashlib.sha256(), 0
    buffer, other = bytearray(BLOCK_BYTES), bytearray(BLOCK_BYTES)
    hashing: Future[None] | None = None
    with source.open("rb", buffering=0) as reader:
        descriptor = os.open(target, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, 0o600)
        try:
            while count := reader.readinto(buffer):
                taking.heed()
                block = memoryview(buffer)[:count]
                if hashing is not None:
                    hashing.result()  # the other buffer is free from here on
                hashing = taking.hasher.submit(digest.update, block)
                with translate(target):
                    write_all(descriptor, block)
                size += count
                taking.advance(count)
                buffer, other = other, buffer
        finally:
            os.close(descriptor)
    if hashing is not None:
        hashing.result()
    return digest.hexdigest(), size


def _settled_digest(path: Path, stopped: Event) -> str:
    """Make the file durable and return the SHA-256 of what it reads back as."""

    def heed() -> None:
        if stopped.is_set():
            raise CancelledError

    with translate(path):
        descriptor = os.open(path, os.O_RDWR | os.O_CLOEXEC)
        try:
            heed()
            sync_descriptor(descriptor)
        finally:
            os.close(descriptor)
    return _sha256(path, heed)[0]


def _listening(job: Future[str], heed: Heed) -> str:
    """Return the job's result, looking for requests meanwhile: `heed` belongs to this thread."""
    while True:
        heed()
        with suppress(TimeoutError):
            return job.result(LISTEN_SECONDS)


def _sha256(path: Path, heed: Heed) -> tuple[str, int]:
    digest, size = hashlib.sha256(), 0
    buffer = bytearray(BLOCK_BYTES)
    with translate(path), path.open("rb", buffering=0) as reader:
        while count := reader.readinto(buffer):
            heed()
            digest.update(memoryview(buffer)[:count])
            size += count
    return digest.hexdigest(), size


def _read(path: Path) -> _Manifest:
    try:
        with translate(path):
            return msgspec.json.decode(path.read_bytes(), type=_Manifest)
    except (msgspec.DecodeError, UnicodeDecodeError) as error:
        raise IntegrityError(f"{path}: the backup's manifest is damaged; no backup was removed") from error


def _nothing() -> None:
    """Heed no request: a check is not a run."""
