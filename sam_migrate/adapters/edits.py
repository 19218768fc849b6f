"""Edit files that others may write at any moment, by exchanging names; nobody's text is lost, killed or not.

An edit's temporary is named after the digests of what was read and of what replaces it. So whatever a kill leaves
behind explains itself: `recover` needs no journal.
"""

from __future__ import annotations

import hashlib
import os
import re
import stat
import time
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Final

from sam_migrate.adapters.durable import (
    TEMPORARY_PREFIX,
    exchange,
    read_regular,
    remove_abandoned,
    sync_directory,
    sync_file,
    translate,
    write_all,
)
from sam_migrate.errors import WaitingError

if TYPE_CHECKING:
    from collections.abc import Callable

# So many temporaries are written before one round of fsync: the disk works on them together, which is most of the
# speed, and a kill leaves at most so many to tidy.
SUB_BATCH_FILES: Final = 256
SYNC_THREADS: Final = 16
ATTEMPTS_MAX: Final = 20
# A program that writes in place is in the middle of it for milliseconds; a second without change is no writing.
TORN_PAUSE_SECONDS: Final = 0.05

_LEFTOVER: Final = re.compile(r"\.sam_migrate-(?P<name>.+)\.(?P<base>[0-9a-f]{16})\.(?P<new>[0-9a-f]{16})\.tmp")
_DIGITS: Final = 16


@dataclass(frozen=True, slots=True, kw_only=True)
class _Edit:
    """One pending exchange: `base` is the digest of what is expected to come out, `new` of what goes in."""

    target: Path
    change: Callable[[bytes], bytes | None]
    temporary: Path
    base: str
    new: str


class ExchangeEdits:
    """A batch of edits; `close` ends it. Not for two threads at once."""

    def __init__(self) -> None:
        """Begin with nothing staged."""
        self._staged: list[_Edit] = []
        self._displaced: list[_Edit] = []
        self._directories: set[Path] = set()
        self._touched: set[tuple[int, int]] = set()

    def apply(self, path: Path, change: Callable[[bytes], bytes | None]) -> bool:
        """Stage one edit; its exchange follows with those of its sub-batch, at the latest in `close`.

        True means the file ends up as though it had been rewritten at this moment: a deletion or a text that
        comes after this call wins, as it would have afterwards. What `change` raises passes, nothing staged.
        """
        target = Path(os.path.realpath(path)) if path.is_symlink() else path
        with translate(target):
            try:
                content, facts = read_regular(target)
                if (facts.st_dev, facts.st_ino) in self._touched:
                    # One pending edit a file: the second must see what became of the first.
                    self.close()
                    content, facts = read_regular(target)
            except FileNotFoundError:
                return False
            edit = self._stage(target, change, content, change(content), facts)
        if edit is None:
            return False
        self._touched.add((facts.st_dev, facts.st_ino))
        self._staged.append(edit)
        if len(self._staged) >= SUB_BATCH_FILES:
            self.flush()
        return True

    def flush(self) -> None:
        """Make the staged temporaries durable, then exchange each with its target."""
        if self._staged:
            # Asked for at the same time, the kernel commits its journal once for many of them.
            with ThreadPoolExecutor(SYNC_THREADS) as pool:
                list(pool.map(_sync_temporary, [edit.temporary for edit in self._staged]))
        while self._staged:
            self._put_in(self._staged.pop())

    def close(self) -> None:
        """Exchange what is staged, make it durable, then let go of what was displaced."""
        try:
            self.flush()
        finally:
            for edit in self._staged:
                edit.temporary.unlink(missing_ok=True)
            self._staged.clear()
            self._touched.clear()
            self._let_go()

    def _stage(
        self,
        target: Path,
        change: Callable[[bytes], bytes | None],
        content: bytes,
        new: bytes | None,
        facts: os.stat_result,
    ) -> _Edit | None:
        if new is None or new == content:
            return None
        base, goal = _digest(content), _digest(new)
        edit = _Edit(target=target, change=change, temporary=_name(target, base, goal), base=base, new=goal)
        self._touched.add(_write_temporary(edit, new, facts))
        return edit

    def _put_in(self, edit: _Edit, holding: _Edit | None = None) -> None:
        """Exchange until what comes out is what the new content was made from, or the file is gone.

        `holding` is a displaced file with somebody's text that only this edit brings back: it is let go when the
        exchange has succeeded, and put back when it has not.
        """
        self._directories.add(edit.target.parent)
        for _ in range(ATTEMPTS_MAX):
            with translate(edit.target):
                if not _swap(edit.target, edit.temporary):
                    if holding is not None:
                        _put_back(holding)
                    following, holding = self._again(edit), None
                else:
                    if holding is not None:
                        self._displaced.append(holding)
                    theirs, facts = read_regular(edit.temporary)
                    if _digest(theirs) == edit.base:
                        self._displaced.append(edit)
                        return
                    following, holding = self._follow(edit, theirs, facts)
            if following is None:
                return
            edit = following
        edit.temporary.unlink(missing_ok=True)
        if holding is not None:
            _put_back(holding)
        raise _written_without_pause(edit.target)

    def _follow(self, edit: _Edit, theirs: bytes, facts: os.stat_result) -> tuple[_Edit | None, _Edit | None]:
        """Somebody wrote `theirs` between our read and the exchange: stage the edit anew on top of it.

        Return the new edit, and the displaced file to hold until that is done. A kill in between leaves their file
        under the temporary's name, and `recover` puts it back.
        """
        try:
            content = edit.change(theirs)
        except Exception:  # noqa: BLE001 - raised again by _again when it lasts
            # Caught in the middle of their writing: they get their file back and finish it there.
            _put_back(edit)
            return self._again(edit), None
        goal = theirs if content is None else content
        held = replace(edit, base=_digest(theirs))
        new = _digest(goal)
        if new == edit.new:
            # What is in place is what would be made from their text, too.
            self._displaced.append(held)
            return None, None
        following = replace(edit, temporary=_name(edit.target, edit.new, new), base=edit.new, new=new)
        try:
            _write_temporary(following, goal, facts)
            sync_file(following.temporary)
        except BaseException:
            following.temporary.unlink(missing_ok=True)
            _put_back(edit)
            raise
        return following, held

    def _again(self, edit: _Edit) -> _Edit | None:
        """Read the target anew and stage the edit, durably; None when it is gone or right as it is.

        What `change` raises passes only when the file stays as it is for a second: until then it is being written.
        """
        edit.temporary.unlink(missing_ok=True)
        for attempt in range(1, ATTEMPTS_MAX + 1):
            try:
                content, facts = read_regular(edit.target)
                following = self._stage(edit.target, edit.change, content, edit.change(content), facts)
            except FileNotFoundError:
                return None  # deleted by its user: it stays deleted
            except WaitingError:
                raise
            except Exception:
                if attempt == ATTEMPTS_MAX:
                    raise
                time.sleep(TORN_PAUSE_SECONDS)
                continue
            if following is not None:
                sync_file(following.temporary)
            return following
        return None

    def _let_go(self) -> None:
        """Make the exchanges durable, merge what was still written into a displaced file, remove the rest."""
        failures: list[Exception] = []
        while self._displaced:
            # First the directories: the old text may go only when the new one surely is under the name.
            for directory in self._directories:
                sync_directory(directory)
            self._directories.clear()
            displaced, self._displaced = self._displaced, []
            for edit in displaced:
                try:
                    self._look_again(edit)
                except Exception as error:  # noqa: BLE001 - the other files are let go first, then it is raised
                    failures.append(error)
        if failures:
            raise failures[0]

    def _look_again(self, edit: _Edit) -> None:
        """Remove a displaced file; a text written into it late wins, unless the target was written since, too."""
        with translate(edit.target):
            try:
                late, facts = read_regular(edit.temporary)
                if _digest(late) != edit.base and _digest(read_regular(edit.target)[0]) == edit.new:
                    following, holding = self._follow(edit, late, facts)
                    if following is not None:
                        self._put_in(following, holding)
                    return
            except FileNotFoundError:
                pass
            edit.temporary.unlink(missing_ok=True)


def recover(directory: Path) -> int:
    """Deal with the leftovers of killed batches in the directory; return how many files there were.

    Not for a directory in which a living process edits: whoever calls holds the lock of those who edit.
    """
    found = 0
    with translate(directory):
        with os.scandir(directory) as entries:
            leftovers = [entry.name for entry in entries if entry.name.startswith(TEMPORARY_PREFIX)]
        for name in leftovers:
            match = _LEFTOVER.fullmatch(name)
            if match:
                _recover_one(directory / name, directory / match["name"], base=match["base"], new=match["new"])
                found += 1
        found += remove_abandoned(directory)
        if found:
            sync_directory(directory)
    return found


def _recover_one(leftover: Path, target: Path, *, base: str, new: str) -> None:
    """Tell from the digests how far the edit got, and put back what somebody else wrote.

    The content read: exchanged as meant. The new content: not exchanged yet. Neither, while the target holds the new
    content: a text written meanwhile, which the exchange displaced. Neither, and the target holds something else:
    a torn temporary, or the target was rewritten since.
    """
    if stat.S_ISREG(leftover.lstat().st_mode) and not target.is_symlink():
        with suppress(FileNotFoundError):
            content, _ = read_regular(leftover)
            if _digest(content)[:_DIGITS] not in (base, new):
                live, _ = read_regular(target)
                # The beginning of the new content is a temporary cut short, never somebody's text.
                if _digest(live)[:_DIGITS] == new and not live.startswith(content):
                    edit = _Edit(target=target, change=bytes, temporary=leftover, base=base, new=_digest(live))
                    _put_back(edit)
                    return
    leftover.unlink(missing_ok=True)


def _put_back(edit: _Edit) -> None:
    """Exchange until what comes out is what we know: whatever else comes out is newer than what went in."""
    inside = edit.new
    for _ in range(ATTEMPTS_MAX):
        with translate(edit.target):
            goes_in = _digest(read_regular(edit.temporary)[0])
            if not _swap(edit.target, edit.temporary):
                edit.temporary.unlink(missing_ok=True)  # the target was deleted by its user
                return
            if _digest(read_regular(edit.temporary)[0]) == inside:
                edit.temporary.unlink(missing_ok=True)
                return
        inside = goes_in
    raise _written_without_pause(edit.target)


def _written_without_pause(target: Path) -> WaitingError:
    return WaitingError(
        "file",
        f"{target}: another program writes it without pause",
        hint="Stop that program or wait until it is done, then resume.",
    )


def _swap(target: Path, temporary: Path) -> bool:
    """Exchange the two names; False when either is gone."""
    try:
        exchange(target, temporary)
    except FileNotFoundError:
        return False
    return True


def _write_temporary(edit: _Edit, content: bytes, facts: os.stat_result) -> tuple[int, int]:
    """Write the temporary with the target's permissions, not yet durable; return what identifies its inode."""
    flags = os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC | os.O_NOFOLLOW
    with translate(edit.temporary):
        try:
            descriptor = os.open(edit.temporary, flags, 0o600)
        except FileExistsError:
            # A killed batch was at the very same edit.
            _recover_one(edit.temporary, edit.target, base=edit.base[:_DIGITS], new=edit.new[:_DIGITS])
            descriptor = os.open(edit.temporary, flags, 0o600)
        try:
            write_all(descriptor, content)
            own = os.fstat(descriptor)
            if (own.st_uid, own.st_gid) != (facts.st_uid, facts.st_gid):
                with suppress(PermissionError):
                    os.fchown(descriptor, facts.st_uid, facts.st_gid)
            os.fchmod(descriptor, stat.S_IMODE(facts.st_mode))
        except BaseException:
            edit.temporary.unlink(missing_ok=True)
            raise
        finally:
            os.close(descriptor)
    return own.st_dev, own.st_ino


def _sync_temporary(temporary: Path) -> None:
    # Removed by somebody's recover()? The exchange will notice.
    with suppress(FileNotFoundError):
        sync_file(temporary)


def _name(target: Path, base: str, new: str) -> Path:
    return target.with_name(f"{TEMPORARY_PREFIX}{target.name}.{base[:_DIGITS]}.{new[:_DIGITS]}.tmp")


def _digest(content: bytes) -> str:
    return hashlib.sha256(content).hexdigest()
