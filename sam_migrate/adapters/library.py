"""Model files on disk: `<models_dir>/<id>/<filename>`, and partials keyed by digest on the same file system."""

from __future__ import annotations

import hashlib
import re
import stat
from typing import TYPE_CHECKING, Final

from sam_migrate.adapters.durable import make_directory, sync_directory, sync_file, translate
from sam_migrate.errors import RefusedError, WaitingError

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path

    from sam_migrate.domain.engine import GgufFacts
    from sam_migrate.ports import Advance, Heed

PARTIALS: Final = ".sam_migrate"
BLOCK_BYTES: Final = 1 << 20
NAME_BYTES_MAX: Final = 255
PARTS_MAX: Final = 16

_SHA256: Final = re.compile(r"[0-9a-f]{64}")
_FORBIDDEN: Final = re.compile(r'[\x00-\x1f\x7f<>:"|?*\\/]')
# With any extension, and whatever the case, these are no files on Windows, where a library may be read one day.
_DEVICES: Final = re.compile(r"(con|prn|aux|nul|conin\$|conout\$|clock\$|(com|lpt)[0-9¹²³]) *(\..*)?", re.IGNORECASE)


class ModelLibrary:
    """The Library port on a local file system."""

    def __init__(self, models_dir: Path, read_header: Callable[[Path], GgufFacts]) -> None:
        """Keep where the files are; directories are made when they are needed."""
        self._models_dir = models_dir
        self._read_header = read_header

    def path(self, model_id: str, filename: str) -> Path:
        """Return where the model's file is or would be; raise RefusedError for names that could leave the library.

        `filename` may name folders, as repositories do; each part is checked, and no link may stand in the way.
        """
        parts = filename.split("/")
        for part in (model_id, *parts):
            _check_name(part)
        if model_id.casefold() == PARTIALS:
            raise _refused(model_id, "is where the partials are")
        if len(parts) > PARTS_MAX:
            raise _refused(filename, f"has more than {PARTS_MAX} parts")
        here = self._models_dir
        for part in (model_id, *parts[:-1]):
            here /= part
            _check_kind(here, stat.S_ISDIR, "is in the way: not a directory of its own")
        final = here / parts[-1]
        _check_kind(final, stat.S_ISREG, "is in the way: not a regular file")
        return final

    def partial(self, sha256: str) -> Path:
        """Return the partial's path, its directory made."""
        if not _SHA256.fullmatch(sha256):
            raise _refused(sha256, "is not a SHA-256 in lower-case hex")
        directory = self._models_dir / PARTIALS
        _check_kind(directory, stat.S_ISDIR, "is in the way: not a directory of its own")
        make_directory(directory)
        return directory / f"{sha256}.part"

    def publish(self, partial: Path, model_id: str, filename: str) -> Path:
        """Give the verified partial its final name, durably; the name it had is gone afterwards.

        One rename: a file that had the name before is replaced whole, never removed first. A second call, after a
        crash anywhere in the first, finishes it.
        """
        final = self.path(model_id, filename)
        make_directory(final.parent)
        try:
            sync_file(partial)
            with translate(final):
                partial.replace(final)
                # The rename of a hard link onto its like does nothing.
                partial.unlink(missing_ok=True)
        except FileNotFoundError as error:
            if not final.is_file():
                raise WaitingError(
                    "file",
                    f"neither {partial} nor {final} is there any more",
                    hint="Put one of them back, or cancel the download and start it again.",
                ) from error
        self._sync_down_to(final.parent)
        if partial.parent.is_dir():
            # The old name must not come back with a power cut: somebody would write through it into the model.
            sync_directory(partial.parent)
        return final

    def digest(self, path: Path, *, heed: Heed, advance: Advance) -> str:
        """Return the SHA-256 of the file in lower-case hex."""
        digest, block = hashlib.sha256(), memoryview(bytearray(BLOCK_BYTES))
        try:
            with translate(path), path.open("rb", buffering=0) as file:
                while count := file.readinto(block):
                    digest.update(block[:count])
                    heed()
                    advance(count)
        except FileNotFoundError as error:
            raise WaitingError("file", f"{path} is not there", hint="Put it back, then resume.") from error
        return digest.hexdigest()

    def header(self, path: Path) -> GgufFacts:
        """Read and check the GGUF header; raise BadFileError saying what is wrong."""
        return self._read_header(path)

    def _sync_down_to(self, directory: Path) -> None:
        """Make the names from models_dir down durable: an earlier run may have died between mkdir and fsync."""
        here = directory
        while True:
            sync_directory(here)
            if here in (self._models_dir, here.parent):
                break
            here = here.parent
        sync_directory(self._models_dir.parent)


def _check_name(part: str) -> None:
    """Refuse what is not the plain name of one file on every system."""
    if part in ("", ".", ".."):
        raise _refused(part, "is not a name")
    if _FORBIDDEN.search(part):
        raise _refused(part, "has characters that do not belong in a name")
    if part != part.strip() or part.endswith("."):
        raise _refused(part, "begins or ends with a space, or ends with a dot")
    if _DEVICES.fullmatch(part):
        raise _refused(part, "is the name of a device")
    try:
        size = len(part.encode())
    except UnicodeEncodeError:
        raise _refused(part, "is not text") from None
    if size > NAME_BYTES_MAX:
        raise _refused(part[:40] + "...", f"is longer than {NAME_BYTES_MAX} bytes")


def _check_kind(path: Path, wanted: Callable[[int], bool], reason: str) -> None:
    """Refuse a link, or anything else that is not what is `wanted`; nothing there is fine."""
    try:
        with translate(path):
            mode = path.lstat().st_mode
    except FileNotFoundError:
        return
    if not wanted(mode):
        raise _refused(str(path), reason)


def _refused(name: str, reason: str) -> RefusedError:
    return RefusedError(f"{name!r} {reason}", hint="Correct the catalog's entry or move away what is there.")
