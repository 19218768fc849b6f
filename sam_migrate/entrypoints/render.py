"""What people and scripts read on stdout: sentences and tables, or one JSON object."""

from __future__ import annotations

import json
from typing import TYPE_CHECKING, Any, Final

import click

if TYPE_CHECKING:
    from collections.abc import Iterable, Sequence

    from sam_migrate.domain.preflight import Check

SCHEMA: Final = "sam-migrate/1"
"""What every object on stdout says of its own shape."""

_MARKS: Final = {"pass": "ok", "warn": "warn", "block": "BLOCK", "later": "later"}


def as_json(content: dict[str, Any]) -> None:
    """Print one object, with its schema."""
    click.echo(json.dumps({"schema": SCHEMA, **content}, ensure_ascii=False))


def table(rows: Iterable[Sequence[str]], *, heading: Sequence[str]) -> None:
    """Print columns as wide as their widest cell."""
    lines = [tuple(heading), *(tuple(row) for row in rows)]
    widths = [max(len(line[column]) for line in lines) for column in range(len(heading))]
    for line in lines:
        click.echo("  ".join(cell.ljust(width) for cell, width in zip(line, widths, strict=True)).rstrip())


def checks(judged: Iterable[Check]) -> None:
    """Print a preflight report."""
    for check in judged:
        click.echo(f"  {_MARKS[check.verdict]:<6} {check.id}: {check.message}")
        if check.hint and check.verdict in ("warn", "block"):
            click.echo(f"         {check.hint}")


def migration(status: dict[str, Any]) -> None:
    """Print how a migration stands."""
    goal = f"back to {status['target']}" if status["target"] else f"{status['from_engine']} -> {status['to_engine']}"
    click.echo(f"{status['migration_id']}: {status['status']} ({goal})")
    if status["status"] == "in_progress":
        click.echo(f"  at step {status['current_step']}, {status['progress_percentage']:.0f} %")
    if status["paused"]:
        click.echo(f"  paused; go on with: sam-migrate resume {status['migration_id']}")
    if status["waiting_for"]:
        click.echo(f"  waiting for {status['waiting_for']}: {status['message']}")
        click.echo(f"  go on with: sam-migrate resume {status['migration_id']}")
    if status["error_message"]:
        click.echo(f"  {status['error_message']}")
    if status["generation"] and status["status"] == "completed":
        click.echo(f"  generation {status['generation']} serves; SAM must reload or restart to read it")
