"""The command line: one group, its global options, and our errors as sentences with the documented exit status."""

from __future__ import annotations

import sys
from typing import Any

import click

from sam_migrate.entrypoints import inspection, migrations, progress, render
from sam_migrate.entrypoints.session import Options
from sam_migrate.errors import SamMigrateError


class _Group(click.Group):
    """Turns our errors into a sentence, a hint and the documented exit status."""

    def invoke(self, ctx: click.Context) -> Any:  # noqa: ANN401 - as click declares it
        try:
            return super().invoke(ctx)
        except SamMigrateError as error:
            options = ctx.find_object(Options)
            if options is not None and options.json:
                found = {"message": error.message, "hint": error.hint, "exit_code": error.exit_code}
                render.as_json({"error": found})
            progress.say(f"sam-migrate: {error.message}")
            if error.hint:
                progress.say(f"  {error.hint}")
            ctx.exit(error.exit_code)


@click.group(cls=_Group, context_settings={"help_option_names": ["-h", "--help"]})
@click.option("--home", metavar="DIR", help="SAM's directory (default: $SAM_HOME, else the current directory).")
@click.option("--json", "as_json", is_flag=True, help="Print one JSON object on stdout.")
@click.option("-q", "--quiet", is_flag=True, help="No talk and no progress on stderr.")
@click.option("-v", "--verbose", is_flag=True, help="Log every event to stderr.")
@click.version_option(package_name="sam_migrate", prog_name="sam-migrate")
@click.pass_context
def main(ctx: click.Context, *, home: str | None, as_json: bool, quiet: bool, verbose: bool) -> None:
    """Change the engine of a SAM safely: one reversible, audited transaction over model, vectors, adapters,
    prompts and configuration, resumed by one command after any crash.
    """  # noqa: D205 - click shows it as the help text
    if sys.platform == "win32":
        raise SamMigrateError("Windows is not supported: sam_migrate runs on Linux and macOS")
    ctx.obj = Options(home=home, json=as_json, quiet=quiet, verbose=verbose)


@main.command()
@click.option("--keep", is_flag=True, help="Leave the temporary home for a closer look.")
@click.option("--engine", "engine", metavar="PATH.gguf", help="Upgrade to a real model of yours instead.")
@click.pass_obj
def demo(options: Options, *, keep: bool, engine: str | None) -> None:
    """Play the whole story in a temporary home: download, upgrade, kill -9, resume, roll back, audit."""
    from sam_migrate.demo import story

    sys.exit(story.play(keep=keep, engine=engine, quiet=options.quiet))


for _command in (
    migrations.plan,
    migrations.upgrade,
    migrations.run,
    migrations.resume,
    migrations.cancel,
    migrations.rollback,
    migrations.retry,
    inspection.status,
    inspection.log,
    inspection.audit,
    inspection.models,
):
    main.add_command(_command)
