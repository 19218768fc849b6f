"""How a run shows itself on stderr: bars in a terminal, plain lines elsewhere. A closed pipe never hurts the run."""

from __future__ import annotations

import sys
import time
from typing import TYPE_CHECKING, Final

if TYPE_CHECKING:
    from rich.progress import Progress, TaskID

LINE_SECONDS: Final = 2.0
"""Without a terminal a step says at most so often how far it is."""


def observer(*, quiet: bool) -> Quiet | Lines | Bars:
    """Return the observer that fits where stderr goes."""
    if quiet:
        return Quiet()
    return Bars() if sys.stderr.isatty() else Lines()


class Quiet:
    """Says nothing."""

    def started(self, step: str, sentence: str) -> None:
        """Say nothing."""

    def progressed(self, *, done: float, total: float, unit: str) -> None:
        """Say nothing."""

    def noted(self, sentence: str) -> None:
        """Say nothing."""

    def close(self) -> None:
        """Have nothing to put away."""


class Lines:
    """One line a step, and one now and then within a long one."""

    def __init__(self) -> None:
        """Begin with no step."""
        self._step = ""
        self._said = 0.0
        self._began = (0.0, 0.0)

    def started(self, step: str, sentence: str) -> None:
        """Say which step begins."""
        self._step, self._said, self._began = step, 0.0, (0.0, 0.0)
        say(f"  {step:<10} {sentence}")

    def progressed(self, *, done: float, total: float, unit: str) -> None:
        """Say how far the step is, with rate and remaining time, not too often."""
        now = time.monotonic()
        if not self._began[0]:
            self._began = (now, done)
        over = total > 0 and done >= total
        if not over and now - self._said < LINE_SECONDS:
            return
        first = not self._said
        self._said = now
        if first and not over:
            return
        say(f"  {self._step:<10} {amounts(done, total, unit)}{pace(self._began, now, done, total, unit)}")

    def noted(self, sentence: str) -> None:
        """Say it on a line of its own."""
        say(f"  {self._step:<10} {sentence}")

    def close(self) -> None:
        """Have nothing to put away."""


class Bars:
    """A bar for the step at work, with amounts, rate and remaining time."""

    def __init__(self) -> None:
        """Draw nothing yet."""
        self._progress: Progress | None = None
        self._task: TaskID | None = None
        self._step = ""
        self._sentence = ""
        self._began = (0.0, 0.0)

    def started(self, step: str, sentence: str) -> None:
        """Finish the former bar, name the new step."""
        self._forget()
        self._step, self._sentence, self._began = step, sentence, (0.0, 0.0)
        say(f"  {step:<10} {sentence}")

    def progressed(self, *, done: float, total: float, unit: str) -> None:
        """Draw how far the step is."""
        now = time.monotonic()
        if not self._began[0]:
            self._began = (now, done)
        text = amounts(done, total, unit) + pace(self._began, now, done, total, unit)
        try:
            progress = self._progress or self._draw()
            if self._task is None:
                self._task = progress.add_task(self._step, total=total or None, amounts=text)
            progress.update(self._task, completed=done, total=total or None, amounts=text)
        except OSError:
            self._forget()

    def noted(self, sentence: str) -> None:
        """Say it above the bar."""
        say(f"  {self._step:<10} {sentence}")

    def close(self) -> None:
        """Take the bar away."""
        self._forget()

    def _draw(self) -> Progress:
        from rich.console import Console
        from rich.progress import BarColumn, Progress, TextColumn

        columns = (TextColumn("  {task.description:<10}"), BarColumn(30), TextColumn("{task.fields[amounts]}"))
        self._progress = Progress(*columns, console=Console(stderr=True), transient=True)
        self._progress.start()
        return self._progress

    def _forget(self) -> None:
        progress, self._progress, self._task = self._progress, None, None
        if progress is not None:
            try:
                progress.stop()
            except OSError:
                return


def amounts(done: float, total: float, unit: str) -> str:
    """Return how much of how much, in the unit people read."""
    if unit == "bytes":
        return f"{size(done)} of {size(total)}" if total else size(done)
    return f"{done:,.0f} of {total:,.0f} {unit}"


def pace(began: tuple[float, float], now: float, done: float, total: float, unit: str) -> str:
    """Return rate and remaining time since the first report of this attempt, or nothing yet."""
    seconds, moved = now - began[0], done - began[1]
    if seconds <= 0.0 or moved <= 0.0:
        return ""
    rate = moved / seconds
    shown = f"{size(rate)}/s" if unit == "bytes" else f"{rate:,.0f} {unit}/s"
    left = f", {duration((total - done) / rate)} left" if total > done else ""
    return f", {shown}{left}"


def size(count: float) -> str:
    """Return a number of bytes as people read it."""
    for unit in ("B", "KiB", "MiB", "GiB"):
        if count < 1024.0 or unit == "GiB":  # noqa: PLR2004 - the step between the units
            return f"{count:.0f} {unit}" if unit == "B" else f"{count:.1f} {unit}"
        count /= 1024.0
    return ""


def duration(seconds: float) -> str:
    """Return a time span as people read it."""
    minutes, rest = divmod(round(seconds), 60)
    hours, minutes = divmod(minutes, 60)
    if hours:
        return f"{hours} h {minutes:02} min"
    return f"{minutes} min {rest:02} s" if minutes else f"{rest} s"


def say(line: str) -> None:
    """Write a line to stderr; who no longer listens misses it."""
    try:
        sys.stderr.write(line + "\n")
        sys.stderr.flush()
    except OSError:
        return
