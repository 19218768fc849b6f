"""What cog writes into README.md: the state diagram from the declaration, the CLI's help from the CLI."""

from __future__ import annotations

import importlib.util
import os
import subprocess
import sys


def state_diagram() -> str:
    """Draw `lifecycle.STATES` and `lifecycle.TRANSITIONS` as a Mermaid diagram, triggers on the arrows."""
    from sam_migrate.domain import lifecycle  # noqa: PLC0415 - each block of the README needs only its own room

    lines = ["```mermaid", "stateDiagram-v2", f"    [*] --> {lifecycle.PENDING}"]
    final = []
    for state in lifecycle.STATES:
        if isinstance(state, dict) and "children" in state:
            lines += [f"    state {state['name']} {{", f"        [*] --> {state['initial']}"]
            lines += [f"        {child}" for child in state["children"]] + ["    }"]
        elif isinstance(state, dict) and state.get("final"):
            final.append(f"    {state['name']} --> [*]")
    for move in lifecycle.TRANSITIONS:
        if move["dest"] is None:  # an internal transition: allowed there, and moves nothing
            continue
        sources = move["source"] if isinstance(move["source"], list) else [move["source"]]
        lines += [_arrow(source, move["dest"], move["trigger"]) for source in sources]
    return "\n".join([*lines, *final, "```", ""])


def _arrow(source: str, target: str, trigger: str) -> str:
    return f"    {source.rpartition('.')[2]} --> {target.rpartition('.')[2]} : {trigger}"


def cli_help() -> str:
    """Ask the command line for its help, as wide on every machine; empty until there is one."""
    if importlib.util.find_spec("sam_migrate.__main__") is None:
        return ""
    done = subprocess.run(
        [sys.executable, "-m", "sam_migrate", "--help"],
        env={**os.environ, "COLUMNS": "100", "NO_COLOR": "1", "TERM": "dumb"},
        stdin=subprocess.DEVNULL,
        capture_output=True,
        text=True,
        check=True,
    )
    return f"```text\n{done.stdout.rstrip()}\n```\n"
