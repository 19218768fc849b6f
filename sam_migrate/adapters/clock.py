"""The computer's time."""

from __future__ import annotations

import time
from datetime import UTC, datetime


class SystemClock:
    """The Clock port on the system's clocks."""

    def now(self) -> datetime:
        """Return the time in UTC, with its zone."""
        return datetime.now(UTC)

    def monotonic(self) -> float:
        """Return seconds that never go back."""
        return time.monotonic()

    def pause(self, seconds: float) -> None:
        """Let that many seconds go by."""
        time.sleep(seconds)
