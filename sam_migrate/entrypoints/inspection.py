"""The commands that look: status, log, audit; and the models of the catalog."""

from __future__ import annotations

import sys
from typing import TYPE_CHECKING

import click

from sam_migrate import bootstrap
from sam_migrate.entrypoints import progress, render
from sam_migrate.entrypoints.session import Options, application, read_log, tell
from sam_migrate.errors import StopRequested

if TYPE_CHECKING:
    from sam_migrate.bootstrap import EventStore


@click.command()
@click.argument("migration_id", metavar="[ID]", required=False)
@click.pass_obj
def status(options: Options, migration_id: str | None) -> None:
    """Show what serves and how the migrations stand. Example: sam-migrate status."""
    with read_log(options) as store:
        if store is None:
            if migration_id is not None:
                from sam_migrate.errors import UnknownRunError

                raise UnknownRunError(f"no migration {migration_id}: this home was never migrated")
            tell(options, "Nothing was ever migrated here.", {"generation": None, "migrations": []})
            return
        _show_status(options, store, migration_id)


@click.command()
@click.argument("run_id", metavar="[ID]", required=False)
@click.pass_obj
def log(options: Options, run_id: str | None) -> None:
    """Show the events of a run, or all. Example: sam-migrate log migration_ana_20260101_120000_1a2b3c4d."""
    from sam_migrate import views

    with read_log(options) as store:
        records = list(views.log(store, run_id)) if store is not None else []
    if options.json:
        render.as_json({"events": records})
        return
    for record in records:
        data = record["data"] if len(record["data"]) <= 100 else record["data"][:97] + "..."  # noqa: PLR2004
        click.echo(f"{record['position']:>6}  {record['recorded_at'][:19]}  {record['type']:<20} {data}")


@click.group()
def audit() -> None:
    """Check the log against itself and against the disk."""


@audit.command("verify")
@click.option("--head", metavar="HASH", help="A digest kept elsewhere that must still be in the chain.")
@click.option("--deep", is_flag=True, help="Read every byte of models, vectors and backups.")
@click.pass_obj
def audit_verify(options: Options, *, head: str | None, deep: bool) -> None:
    """Check chain, replay, derived rows and disk. Example: sam-migrate audit verify --deep."""
    from sam_migrate import audit as auditor

    if bootstrap.open_log(options.settings) is None:
        tell(options, "Nothing was ever migrated here.", {"ok": True, "events": 0, "problems": [], "drift": []})
        return
    with application(options) as (app, _):
        report = auditor.verify(app.store, app.world, deep=deep, head=head)
    if options.json:
        problems = [{"kind": each.kind, "where": each.where, "what": each.what} for each in report.problems]
        found = {"ok": report.ok, "events": report.events, "head": report.head, "problems": problems}
        render.as_json({**found, "drift": list(report.drift)})
    else:
        for problem in report.problems:
            click.echo(f"{problem.kind}: {problem.where}: {problem.what}")
        for name in report.drift:
            click.echo(f"drift: {name} was changed since, by SAM or the user")
        verdict = "in order" if report.ok else f"{len(report.problems)} problems"
        click.echo(f"{report.events} events, head {report.head[:16]}: {verdict}")
    sys.exit(0 if report.ok else 6)


@click.group()
def models() -> None:
    """See and fetch the models of the catalog."""


@models.command("list")
@click.pass_obj
def models_list(options: Options) -> None:
    """List the catalog with what is here. Example: sam-migrate models list."""
    from sam_migrate import views

    with application(options) as (app, _):
        rows = views.models(app.service, app.world)
    if options.json:
        render.as_json({"models": rows})
        return
    cells = [
        (row["model_id"], row["status"], progress.size(row["file_size"]), row["quantization"], row["display_name"])
        for row in rows
    ]
    render.table(cells, heading=("ID", "STATUS", "SIZE", "QUANT", "NAME"))


@models.command("pull")
@click.argument("model_id", metavar="ID")
@click.pass_obj
def models_pull(options: Options, model_id: str) -> None:
    """Download a model, or go on with its download. Example: sam-migrate models pull llama-3.1-8b-q4."""
    with application(options) as (app, signals):
        try:
            model = app.runner.pull(model_id)
        except StopRequested:
            progress.say(f"Stopped; go on with: sam-migrate models pull {model_id}")
            sys.exit(signals.exit_code if signals.came() else 8)
        place = app.world.relative(model.path)
    found = {"model_id": model_id, "path": place, "sha256": model.sha256, "size_bytes": model.size_bytes}
    tell(options, f"{model_id} is here and verified: {place}", found)


def _show_status(options: Options, store: EventStore, migration_id: str | None) -> None:
    from sam_migrate import views

    if migration_id is not None:
        found = views.status_object(store, views.migration(store, migration_id))
        (render.as_json if options.json else render.migration)(found)
        return
    runs = [views.status_object(store, each) for each in views.migrations(store)]
    serving = views.serving(store)
    if options.json:
        render.as_json({"generation": serving, "migrations": runs})
        return
    if serving is not None:
        click.echo(f"Generation {serving['generation_id']} serves: engine {serving['engine_id']}")
    else:
        click.echo("SAM serves what it served before us.")
    for each in runs:
        render.migration(each)
