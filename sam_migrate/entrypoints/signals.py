"""SIGINT and SIGTERM ask the run to leave in good order; a hang-up does not touch it."""

from __future__ import annotations

import signal
from contextlib import contextmanager
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Iterator
    from types import FrameType


class Signals:
    """Remembers which signal came first."""

    def __init__(self) -> None:
        """Begin with none."""
        self.number = 0

    def came(self) -> bool:
        """Tell whether a signal asked to leave."""
        return self.number != 0

    @property
    def exit_code(self) -> int:
        """Return the exit status that names the signal."""
        return 128 + self.number

    def hear(self, number: int, _frame: FrameType | None) -> None:
        """Remember the signal; the second one of a person who will not wait ends the process as usual."""
        if self.number and number == signal.SIGINT:
            raise KeyboardInterrupt
        self.number = number

    @contextmanager
    def heard(self) -> Iterator[Signals]:
        """Listen for the length of the block."""
        former = {number: signal.signal(number, self.hear) for number in (signal.SIGINT, signal.SIGTERM)}
        hangup = signal.signal(signal.SIGHUP, signal.SIG_IGN)
        try:
            yield self
        finally:
            for number, handler in former.items():
                signal.signal(number, handler)
            signal.signal(signal.SIGHUP, hangup)
