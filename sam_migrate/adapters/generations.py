"""The directories `generations/<id>/`: model link, vectors, prompt set and, written last, the manifest."""

from __future__ import annotations

import hashlib
import json
import os
import re
from contextlib import suppress
from typing import TYPE_CHECKING, Any, Final

import msgspec

from sam_migrate.adapters.durable import (
    COPY_BLOCK_BYTES,
    copy_file,
    make_directory,
    remove_tree,
    sync_directory,
    sync_file,
    translate,
    write_durable,
)
from sam_migrate.adapters.vectors import SqliteVectors
from sam_migrate.domain.generation import Generation  # noqa: TC001 - decoded at run time
from sam_migrate.errors import IntegrityError, RefusedError, SamMigrateError, WaitingError

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping
    from pathlib import Path

    from sam_migrate.domain.engine import ServedEngine

SCHEMA: Final = "sam-migrate/generation/1"

_ID: Final = re.compile(r"[a-z0-9][a-z0-9._-]{0,80}")
_MANIFEST: Final = "manifest.json"
_PROMPTS: Final = "prompts.json"
_VECTORS: Final = "vectors.db"
_MODEL: Final = "model"
_EMBEDDER: Final = "embedder"
_REMOVING: Final = ".removing-"


class _File(msgspec.Struct, frozen=True, kw_only=True):
    sha256: str | None
    size_bytes: int


class _Manifest(msgspec.Struct, frozen=True, kw_only=True):
    schema: str
    generation: Generation
    files: dict[str, _File]


class GenerationDirectories:
    """The Generations port below one directory."""

    def __init__(self, root: Path, *, caches: Path) -> None:
        """Keep the directories of the generations and of the caches; they are made with the first of each."""
        self._root = root
        self._caches = caches

    def index(self, generation_id: str, *, dimension: int) -> SqliteVectors:
        """Open the generation's vectors, making them when they are not there yet."""
        directory = self._made(generation_id)
        index = SqliteVectors(directory / _VECTORS, dimension=dimension)
        # The file's name is new: without this a power cut loses the whole index, however durable its batches are.
        sync_directory(directory)
        return index

    def cache(self, identity: str, *, dimension: int) -> SqliteVectors:
        """Open the cache of vectors made by this embedder, which outlives the runs that fill it."""
        make_directory(self._caches, mode=0o700)
        name = hashlib.sha256(identity.encode()).hexdigest()[:32]
        cache = SqliteVectors(self._caches / f"{name}.db", dimension=dimension)
        sync_directory(self._caches)
        return cache

    def drop_caches(self) -> None:
        """Remove the caches of vectors. Idempotent."""
        with translate(self._caches), suppress(FileNotFoundError):
            remove_tree(self._caches)

    def link_model(self, generation_id: str, source: Path, *, role: str = _MODEL) -> Path:
        """Give the generation its own hard link to a model (a copy where links fail). Idempotent."""
        directory = self._made(generation_id) / _role(role)
        make_directory(directory, mode=0o700)
        with translate(source):
            origin = source.resolve(strict=True)
            size = origin.stat().st_size
        target = directory / source.name
        with translate(target):
            for other in directory.iterdir():
                # A kill leaves a link or a whole copy, never a part; anything else is from another choice of model.
                if other != target or other.stat().st_size != size:
                    remove_tree(other)
            if not target.exists():
                try:
                    os.link(origin, target)
                except OSError:
                    copy_file(origin, target, mode=0o600)
        sync_directory(directory)
        return target

    def model(self, generation_id: str, *, role: str = _MODEL) -> Path | None:
        """Return the generation's model file in this role, or None when it has none."""
        directory = self._directory(generation_id) / _role(role)
        with translate(directory), suppress(FileNotFoundError):
            return next((path for path in sorted(directory.iterdir()) if not path.name.startswith(".")), None)
        return None

    def files(self, generation_id: str) -> Iterator[tuple[str, Path]]:
        """Yield name and path of the generation's vectors and prompts, where they exist."""
        for name in (_VECTORS, _PROMPTS):
            path = self._directory(generation_id) / name
            if path.is_file():
                yield f"generations/{generation_id}/{name}", path

    def write_prompts(self, generation_id: str, prompts: Mapping[str, Any]) -> str:
        """Store the prompt set durably, in one canonical spelling, and return its SHA-256."""
        text = json.dumps(prompts, sort_keys=True, ensure_ascii=False, separators=(",", ":"), allow_nan=False)
        content = text.encode()
        write_durable(self._made(generation_id) / _PROMPTS, content, mode=0o600)
        return hashlib.sha256(content).hexdigest()

    def prompts(self, generation_id: str) -> dict[str, Any]:
        """Read the prompt set; raise IntegrityError when it is missing or damaged."""
        path = self._directory(generation_id) / _PROMPTS
        try:
            with translate(path):
                parsed = json.loads(path.read_bytes())
        except (FileNotFoundError, ValueError) as error:
            raise IntegrityError(f"{path}: the prompt set is missing or damaged") from error
        if not isinstance(parsed, dict):
            raise IntegrityError(f"{path}: the prompt set is not an object")
        return parsed

    def seal(self, generation: Generation) -> None:
        """Write the manifest with the digests of everything in the directory, and make all of it durable.

        The vectors are named by the generation's own VectorSet, the model by its engine's SHA-256.
        """
        directory = self._made(generation.generation_id)
        files = {path.name: _described(path) for path in (directory / _PROMPTS,) if path.exists()}
        for role, engine in _roles(generation):
            model = self.model(generation.generation_id, role=role)
            if model is not None:
                with translate(model):
                    size = model.stat().st_size
                files[f"{role}/{model.name}"] = _File(sha256=engine.sha256, size_bytes=size)
        if (directory / _VECTORS).exists():
            sync_file(directory / _VECTORS)
        sync_directory(directory)
        sync_directory(self._root)
        manifest = _Manifest(schema=SCHEMA, generation=generation, files=files)
        # Last: a directory with a manifest is complete.
        write_durable(directory / _MANIFEST, _encode(manifest), mode=0o600)

    def manifest(self, generation_id: str) -> Generation | None:
        """Read the generation back from its manifest; None when it was never sealed."""
        manifest = self._read(generation_id)
        return None if manifest is None else manifest.generation

    def problems(self, generation: Generation, *, deep: bool) -> list[str]:
        """Compare the directory with what the log says of it; `deep` reads every byte. Empty when it is right."""
        if not self._directory(generation.generation_id).is_dir():
            return [f"the directory of generation {generation.generation_id} is missing"]
        found: list[str] = []
        for compare in (self._manifest_problems, self._prompt_problems):
            found += compare(generation)
        for compare_deep in (self._model_problems, self._vector_problems):
            found += compare_deep(generation, deep=deep)
        return found

    def ids(self) -> list[str]:
        """Return the ids of all directories there, sealed or not."""
        with translate(self._root), suppress(FileNotFoundError):
            return sorted(path.name for path in self._root.iterdir() if _ID.fullmatch(path.name) and path.is_dir())
        return []

    def remove(self, generation_id: str) -> None:
        """Remove the directory and all in it. Idempotent, and finishes what a kill left half removed."""
        directory = self._directory(generation_id)
        with translate(self._root), suppress(FileNotFoundError):
            for leftover in self._root.glob(f"{_REMOVING}*"):
                remove_tree(leftover)
            # Out of the way first: half a generation must never be found under its id.
            directory.rename(self._root / f"{_REMOVING}{generation_id}")
            sync_directory(self._root)
            remove_tree(self._root / f"{_REMOVING}{generation_id}")

    def _manifest_problems(self, generation: Generation) -> Iterator[str]:
        name = generation.generation_id
        try:
            manifest = self._read(name)
        except SamMigrateError as error:
            yield error.message
            return
        if manifest is None:
            yield f"generation {name} has no manifest"
            return
        if _encode(manifest.generation) != _encode(generation):
            yield f"the manifest of generation {name} is not what the log says"
        for path, facts in manifest.files.items():
            whole = self._directory(name) / path
            if not whole.is_file():
                yield f"{whole} is missing"
            elif whole.stat().st_size != facts.size_bytes:
                yield f"{whole} has {whole.stat().st_size} bytes instead of {facts.size_bytes}"

    def _prompt_problems(self, generation: Generation) -> Iterator[str]:
        path = self._directory(generation.generation_id) / _PROMPTS
        if generation.prompts_sha256 and path.is_file() and _sha256(path) != generation.prompts_sha256:
            yield f"{path} is not the prompt set that was committed"
        elif generation.prompts_sha256 and not path.is_file():
            yield f"{path} is missing"

    def _model_problems(self, generation: Generation, *, deep: bool) -> Iterator[str]:
        for role, engine in _roles(generation):
            model = self.model(generation.generation_id, role=role)
            if model is None:
                if engine.sha256 is not None:
                    yield f"generation {generation.generation_id} has lost its {role} {engine.filename}"
                continue
            size = model.stat().st_size
            if engine.size_bytes and size != engine.size_bytes:
                yield f"{model} has {size} bytes instead of {engine.size_bytes}"
            elif deep and engine.sha256 is not None and _sha256(model) != engine.sha256:
                yield f"{model} does not have the SHA-256 of the model that was verified"

    def _vector_problems(self, generation: Generation, *, deep: bool) -> Iterator[str]:
        path = self._directory(generation.generation_id) / _VECTORS
        if not path.is_file():
            if generation.vectors.count:
                yield f"{path} is missing"
            return
        try:
            index = SqliteVectors(path, dimension=0)
            try:
                if index.sealed_count() != generation.vectors.count:
                    yield f"{path} holds {index.sealed_count()} sealed vectors instead of {generation.vectors.count}"
                elif deep and index.sealed() != generation.vectors:
                    yield f"{path} does not hold the vectors that were sealed"
            finally:
                index.close()
        except WaitingError:
            raise
        except SamMigrateError as error:
            yield error.message

    def _read(self, generation_id: str) -> _Manifest | None:
        path = self._directory(generation_id) / _MANIFEST
        try:
            with translate(path):
                return msgspec.json.decode(path.read_bytes(), type=_Manifest)
        except FileNotFoundError:
            return None
        except (msgspec.DecodeError, UnicodeDecodeError) as error:
            raise IntegrityError(f"{path}: the manifest is damaged: {error}") from error

    def _made(self, generation_id: str) -> Path:
        directory = self._directory(generation_id)
        make_directory(directory, mode=0o700)
        return directory

    def _directory(self, generation_id: str) -> Path:
        if not _ID.fullmatch(generation_id):
            raise RefusedError(f"{generation_id!r} cannot be the id of a generation")
        return self._root / generation_id


def _role(role: str) -> str:
    if role not in (_MODEL, _EMBEDDER):
        raise ValueError(role)
    return role


def _roles(generation: Generation) -> Iterator[tuple[str, ServedEngine]]:
    """Yield the roles in which the generation needs a model file, with the engine that fills each."""
    yield _MODEL, generation.engine
    embedding = generation.embedder.engine
    if embedding is not None and embedding.sha256 != generation.engine.sha256:
        yield _EMBEDDER, embedding


def _described(path: Path) -> _File:
    with translate(path):
        return _File(sha256=_sha256(path), size_bytes=path.stat().st_size)


def _sha256(path: Path) -> str:
    digest = hashlib.sha256()
    with translate(path), path.open("rb", buffering=0) as reader:
        while block := reader.read(COPY_BLOCK_BYTES):
            digest.update(block)
    return digest.hexdigest()


def _encode(content: object) -> bytes:
    return msgspec.json.encode(content, order="sorted")
