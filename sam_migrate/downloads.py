"""Downloads at work: start one, join one that is under way, drive it to its end, cancel it."""

from __future__ import annotations

import os
from typing import TYPE_CHECKING, Final

from sam_migrate import codec
from sam_migrate.domain import commands, download, events, lifecycle
from sam_migrate.errors import FailedError, IntegrityError, LockedError, SamMigrateError, StopRequested, WaitingError
from sam_migrate.steps import download as steps
from sam_migrate.steps.world import VerifiedModel

if TYPE_CHECKING:
    from collections.abc import Callable

    from sam_migrate.attention import Attention
    from sam_migrate.domain.download import Download
    from sam_migrate.domain.engine import CatalogEntry
    from sam_migrate.ports import Locks
    from sam_migrate.service import Service
    from sam_migrate.steps.world import World

ATTACHED_SECONDS: Final = 0.2
"""How often one looks at a download that another process drives."""


class Downloads:
    """The downloads of one home, as one worker (`runner`) sees them."""

    def __init__(self, service: Service, locks: Locks, world: World, *, runner: str, new_id: Callable[[], str]) -> None:
        """Work on these downloads."""
        self._service = service
        self._locks = locks
        self._world = world
        self._runner = runner
        self._new_id = new_id

    def under_way(self, model_id: str) -> Download | None:
        """Return the open download of this model, or None."""
        heads = self._service.store.stream_heads(category="download", statuses=("pending", "in_progress"))
        for head in heads:
            summary = codec.decode_summary(head.summary or "{}")
            if summary.details["model_id"] == model_id:
                return self._service.download(summary.run_id)
        return None

    def request(self, entry: CatalogEntry, requested_by: str) -> Download:
        """Create a download of the entry's file; raise where the entry names none or an unsafe one."""
        self._world.library.path(entry.model_id, steps.filename(entry))
        return self._service.request_download(
            events.DownloadRequested(
                download_id=f"download_{entry.model_id}_{self._new_id()}",
                entry=entry,
                requested_by=requested_by,
                requested_at=self._world.clock.now().isoformat(),
            )
        )

    def here(self, entry: CatalogEntry, attention: Attention) -> VerifiedModel | None:
        """Return the model when the library has it; hash it first. Raise FailedError when it is not what was stored."""
        recorded = self._service.library().get(entry.model_id)
        if recorded is None:
            return None
        path = self._world.absolute(recorded.path)
        if not path.exists():
            return None
        done = 0

        def advance(count: int) -> None:
            nonlocal done
            done += count
            self._world.observer.progressed(done=done, total=recorded.size_bytes, unit="bytes")

        sha256 = self._world.library.digest(path, heed=attention, advance=advance)
        if sha256 != recorded.sha256:
            raise FailedError(
                f"{recorded.path} was changed since it was verified: SHA-256 {sha256[:16]} instead of "
                f"{recorded.sha256[:16]}",
                hint=f"Move the file away; `sam-migrate models pull {entry.model_id}` brings a good one.",
            )
        return VerifiedModel(path=path, sha256=sha256, size_bytes=recorded.size_bytes)

    def drive(self, run: Download, attention: Attention) -> Download:
        """Bring the download to its end, or stand by while another process does; return its last state.

        Raises StopRequested, WaitingError and LockedError as they come; a download that failed is returned.
        """
        while run.state in lifecycle.OPEN:
            try:
                with self._locks.hold(f"download-{run.download_id}"):
                    run = self._work(run, attention)
            except LockedError:
                attention()
                self._world.clock.pause(ATTACHED_SECONDS)
                run = self._service.reload(run)
                self._world.observer.progressed(done=run.done_bytes, total=run.total_bytes, unit="bytes")
        return run

    def cancel(self, run: Download) -> Download:
        """Ask for the end of the download, and end it here when nobody works on it."""
        run = self._service.handle(run, commands.RequestCancel())
        try:
            with self._locks.hold(f"download-{run.download_id}"):
                run = self._service.reload(run)
                if run.state in lifecycle.UNCOMMITTED:
                    run = self._service.handle(run, commands.Stop(request="cancel"))
        except LockedError:
            pass
        return run

    def _work(self, run: Download, attention: Attention) -> Download:
        run = self._service.reload(run)
        if run.state not in lifecycle.OPEN:
            return run
        run = self._service.handle(run, commands.Claim(runner=self._runner, pid=os.getpid()))
        watching = attention.watching(run)
        try:
            while (step := download.next_step(run)) is not None:
                watching()
                run = self._perform(run, step, watching)
        except StopRequested as stop:
            return self._stopped(run, stop)
        except WaitingError as waiting:
            self._service.handle(
                run,
                events.RunWaited(waiting_for=waiting.waiting_for, message=waiting.message, hint=waiting.hint),
                runner=self._runner,
            )
            raise
        except LockedError:
            raise
        except SamMigrateError as error:
            run = self._service.handle(
                run, commands.Fail(reason=error.message, exit_code=error.exit_code), runner=self._runner
            )
        return run

    def _perform(self, run: Download, step: str, attention: Attention) -> Download:
        if step == download.RESOLVE:
            return self._handle(run, steps.resolve(self._world, run))
        if step == download.PUBLISH:
            completed, recorded = steps.publish(self._world, run)
            return self._service.handle(run, completed, runner=self._runner, library=recorded)
        if run.remote is None:
            raise IntegrityError(f"{run.download_id} was never pinned")
        with self._locks.hold(f"partial-{run.remote.sha256[:32]}"):
            verified = steps.transfer(self._world, run, record=lambda event: self._handle(run, event), heed=attention)
        return self._handle(run, verified)

    def _handle(self, run: Download, event: events.Event) -> Download:
        return self._service.handle(run, event, runner=self._runner)

    def _stopped(self, run: Download, stop: StopRequested) -> Download:
        """Leave in good order; a request to this very download is its end, one to its migration is passed on."""
        if stop.run_id == run.download_id:
            run = self._service.handle(run, commands.Stop(request=stop.request), runner=self._runner)
            if stop.request == "cancel":
                return run
        else:
            self._service.handle(run, commands.Stop(request="interrupt"), runner=self._runner)
        raise stop
