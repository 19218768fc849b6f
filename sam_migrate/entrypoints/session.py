"""What the commands share: the global options, the wired application, running to an end, asking and telling."""

from __future__ import annotations

import sys
from contextlib import contextmanager
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, NoReturn

import click

from sam_migrate import bootstrap, config
from sam_migrate.entrypoints import progress, render
from sam_migrate.entrypoints.signals import Signals
from sam_migrate.errors import StopRequested

if TYPE_CHECKING:
    from collections.abc import Iterator

    from sam_migrate.bootstrap import Application, EventStore


@dataclass(frozen=True, slots=True, kw_only=True)
class Options:
    """The global options."""

    home: str | None
    json: bool
    quiet: bool
    verbose: bool

    @property
    def settings(self) -> config.Settings:
        """Return the settings of this call."""
        return config.read(self.home)


@contextmanager
def application(options: Options) -> Iterator[tuple[Application, Signals]]:
    """Wire everything for the length of a command."""
    _configure_log(verbose=options.verbose)
    watcher = progress.observer(quiet=options.quiet)
    with Signals().heard() as signals:
        app = bootstrap.build(options.settings, observer=watcher, interrupted=signals.came)
        try:
            yield app, signals
        finally:
            watcher.close()
            app.store.close()


@contextmanager
def read_log(options: Options) -> Iterator[EventStore | None]:
    """Open only the log, for commands that read."""
    store = bootstrap.open_log(options.settings)
    try:
        yield store
    finally:
        if store is not None:
            store.close()


def _configure_log(*, verbose: bool) -> None:
    import logging

    import structlog

    structlog.configure(
        wrapper_class=structlog.make_filtering_bound_logger(logging.DEBUG if verbose else logging.WARNING),
        logger_factory=structlog.PrintLoggerFactory(sys.stderr),
    )


def work(options: Options, app: Application, signals: Signals, migration_id: str) -> NoReturn:
    """Run the migration in the foreground and leave with the exit status of its end."""
    try:
        app.runner.run(migration_id)
    except StopRequested as stop:
        progress.say(f"Stopped; go on with: sam-migrate resume {stop.run_id or migration_id}")
        if signals.came():
            sys.exit(signals.exit_code)
    finish(options, app, migration_id)


def finish(options: Options, app: Application, migration_id: str) -> NoReturn:
    """Show how the migration stands and leave with the exit status that tells it."""
    sys.exit(report(options, app, migration_id))


def report(options: Options, app: Application, migration_id: str) -> int:
    """Show how the migration stands and return the exit status that tells it."""
    from sam_migrate import views

    summary = views.migration(app.store, migration_id)
    (render.as_json if options.json else render.migration)(views.status_object(app.store, summary))
    return views.exit_code(summary)


def confirm(question: str, *, yes: bool) -> None:
    """Ask before something changes; without a terminal `--yes` must have been said."""
    if yes:
        return
    if not sys.stdin.isatty():
        raise click.UsageError("there is no terminal to ask on: say --yes")
    if not click.confirm(question, err=True):
        progress.say("Nothing was changed.")
        sys.exit(3)


def tell(options: Options, sentence: str, found: dict[str, Any]) -> None:
    """Say a sentence, or print the object that says the same."""
    if options.json:
        render.as_json(found)
    else:
        click.echo(sentence)
