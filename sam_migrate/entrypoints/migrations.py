"""The commands that change: plan, upgrade, run, resume, cancel, rollback, retry."""

from __future__ import annotations

from typing import TYPE_CHECKING

import click

from sam_migrate.entrypoints import render
from sam_migrate.entrypoints.session import Options, application, confirm, finish, report, tell, work

if TYPE_CHECKING:
    from collections.abc import Callable

    from sam_migrate.bootstrap import Application
    from sam_migrate.domain.migration import Migration


def _upgrade_options(command: Callable[..., None]) -> Callable[..., None]:
    for name, text in (
        ("--no-prompts", "Keep the prompts that serve."),
        ("--no-re-embed", "Keep the vectors that serve, and the engine that made them."),
        ("--no-backup", "Do not copy the LoRA adapters."),
    ):
        command = click.option(name, is_flag=True, help=text)(command)
    return click.option("--user", default="default_user", show_default=True, help="Whose plan this is.")(command)


def _yes(command: Callable[..., None]) -> Callable[..., None]:
    return click.option("--yes", is_flag=True, help="Do not ask; needed where there is no terminal.")(command)


@click.command()
@click.argument("engine")
@_upgrade_options
@click.pass_obj
def plan(options: Options, engine: str, *, user: str, no_backup: bool, no_re_embed: bool, no_prompts: bool) -> None:
    """Plan an upgrade and show its preflight report. Example: sam-migrate plan llama-3.1-8b-q4."""
    with application(options) as (app, _):
        state = _planned(app, engine, user, no_backup=no_backup, no_re_embed=no_re_embed, no_prompts=no_prompts)
        _show_plan(options, app, state)


@click.command()
@click.argument("engine")
@_upgrade_options
@_yes
@click.option("--dry-run", is_flag=True, help="Only plan.")
@click.pass_obj
def upgrade(
    options: Options,
    engine: str,
    *,
    user: str,
    no_backup: bool,
    no_re_embed: bool,
    no_prompts: bool,
    yes: bool,
    dry_run: bool,
) -> None:
    """Plan and run an upgrade: the main job. Example: sam-migrate upgrade llama-3.1-8b-q4."""
    with application(options) as (app, signals):
        state = _planned(app, engine, user, no_backup=no_backup, no_re_embed=no_re_embed, no_prompts=no_prompts)
        if dry_run:
            _show_plan(options, app, state)
            return
        if not yes:
            render.checks(state.required.checks)
        confirm(f"Switch to {engine}?", yes=yes)
        work(options, app, signals, state.migration_id)


@click.command()
@click.argument("migration_id", metavar="ID")
@click.pass_obj
def run(options: Options, migration_id: str) -> None:
    """Run a planned migration, here and now. Example: sam-migrate run migration_ana_20260101_120000_1a2b3c4d."""
    with application(options) as (app, signals):
        work(options, app, signals, migration_id)


@click.command()
@click.argument("migration_id", metavar="[ID]", required=False)
@click.option("--all", "every", is_flag=True, help="Every interrupted or waiting run; paused ones are left alone.")
@click.pass_obj
def resume(options: Options, migration_id: str | None, *, every: bool) -> None:
    """Go on with an interrupted, waiting or paused run. Example: sam-migrate resume."""
    if every and migration_id:
        raise click.UsageError("give an ID or --all, not both")
    with application(options) as (app, signals):
        from sam_migrate import views

        if migration_id is None:
            found = [known.run_id for known in views.interrupted(app.store)]
            if not found:
                tell(options, "Nothing to resume.", {"migrations": []})
                return
            migration_id = found[0]
        elif views.migration(app.store, migration_id).status not in ("pending", "in_progress"):
            finish(options, app, migration_id)
        work(options, app, signals, migration_id)


@click.command()
@click.argument("migration_id", metavar="ID")
@click.pass_obj
def cancel(options: Options, migration_id: str) -> None:
    """Cancel a migration before its commit; afterwards it is refused. Example: sam-migrate cancel ID."""
    with application(options) as (app, _):
        state = app.runner.cancel(migration_id)
        report(options, app, state.migration_id)


@click.command()
@click.argument("migration_id", metavar="[ID]", required=False)
@click.option("--to", "generation", metavar="GENERATION", help="The kept generation to go back to.")
@_yes
@click.pass_obj
def rollback(options: Options, migration_id: str | None, *, generation: str | None, yes: bool) -> None:
    """Go back to what served before a migration (the last one). Example: sam-migrate rollback."""
    with application(options) as (app, signals):
        opened = _past_commit(app, migration_id) if generation is None else None
        if opened is not None:
            from sam_migrate.domain.events import ReturnRequested

            confirm(f"Let {opened.migration_id} return to what served before?", yes=yes)
            app.service.handle(opened, ReturnRequested())
            work(options, app, signals, opened.migration_id)
        confirm("Go back to what served before?", yes=yes)
        state = app.planner.rollback(migration_id, to=generation)
        work(options, app, signals, state.migration_id)


@click.command()
@click.argument("migration_id", metavar="ID")
@click.option("--override", "overrides", multiple=True, metavar="CHECK", help="Go on in spite of this check.")
@click.option("--reason", default="", help="Why, for the log; required with --override.")
@_yes
@click.pass_obj
def retry(options: Options, migration_id: str, *, overrides: tuple[str, ...], reason: str, yes: bool) -> None:
    """Run a failed or cancelled migration again. Example: sam-migrate retry ID --override context --reason tested."""
    if overrides and not reason.strip():
        raise click.UsageError("--override needs --reason: it is written into the log")
    with application(options) as (app, signals):
        confirm(f"Try {migration_id} again?", yes=yes)
        state = app.planner.retry(migration_id, dict.fromkeys(overrides, reason))
        work(options, app, signals, state.migration_id)


def _planned(
    app: Application, engine: str, user: str, *, no_backup: bool, no_re_embed: bool, no_prompts: bool
) -> Migration:
    return app.planner.upgrade(
        engine, user_id=user, backup_lora=not no_backup, re_embed=not no_re_embed, update_prompts=not no_prompts
    )


def _show_plan(options: Options, app: Application, state: Migration) -> None:
    from sam_migrate import views

    found = views.status_object(app.store, views.migration(app.store, state.migration_id))
    if options.json:
        judged = [
            {"id": each.id, "stage": each.stage, "verdict": each.verdict, "message": each.message, "hint": each.hint}
            for each in state.required.checks
        ]
        render.as_json({**found, "checks": judged})
        return
    render.migration(found)
    minutes = found["estimated_duration_minutes"]
    click.echo(f"  {found['knowledge_base_size']} chunks, about {minutes} minutes (rough)")
    render.checks(state.required.checks)
    click.echo(f"  run it with: sam-migrate run {state.migration_id}")


def _past_commit(app: Application, migration_id: str | None) -> Migration | None:
    """Return the open run past its commit that is meant: by its id, or the only one there can be."""
    from sam_migrate import views
    from sam_migrate.domain import lifecycle

    for known in views.migrations(app.store, statuses=("in_progress",)):
        if known.state == lifecycle.COMMITTED and migration_id in (None, known.run_id) and not known.details["target"]:
            return app.service.migration(known.run_id)
    return None
