"""How a worker notices within a fraction of a second that it was asked to stop, or is no longer the worker."""

from __future__ import annotations

from typing import TYPE_CHECKING, Final

from sam_migrate.domain import lifecycle
from sam_migrate.errors import LockedError, StopRequested

if TYPE_CHECKING:
    from collections.abc import Callable

    from sam_migrate.domain.download import Download
    from sam_migrate.domain.migration import Migration
    from sam_migrate.ports import Clock
    from sam_migrate.service import Service

LOOK_SECONDS: Final = 0.2


class Attention:
    """The `heed` of one or two runs in the hands of one worker: a migration and the download it waits for."""

    def __init__(self, service: Service, clock: Clock, runner: str, interrupted: Callable[[], bool]) -> None:
        """Look at nothing yet."""
        self._service = service
        self._clock = clock
        self._runner = runner
        self._interrupted = interrupted
        self._runs: list[Migration | Download] = []
        self._looked = clock.monotonic() - LOOK_SECONDS

    def watching(self, run: Migration | Download) -> Attention:
        """Return an attention that looks after this run too."""
        other = Attention(self._service, self._clock, self._runner, self._interrupted)
        other._runs = [*self._runs, run]
        return other

    def __call__(self) -> None:
        """Raise StopRequested or LockedError when a run is to be left; look at the log only now and then."""
        if self._interrupted():
            raise StopRequested("interrupt")
        now = self._clock.monotonic()
        if now - self._looked < LOOK_SECONDS:
            return
        self._looked = now
        for run in self._runs:
            self._look(run)

    def _look(self, run: Migration | Download) -> None:
        state = self._service.reload(run)
        if state.control.runner != self._runner:
            raise LockedError(state.run_id, state.control.pid)
        request = state.control.request
        if request == "pause" or (request == "cancel" and state.state in lifecycle.UNCOMMITTED):
            raise StopRequested(request, state.run_id)
