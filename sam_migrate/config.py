"""Settings, read once from the environment and the command line into one frozen dataclass."""

from __future__ import annotations

import os
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Final

from sam_migrate.errors import RefusedError

if TYPE_CHECKING:
    from collections.abc import Mapping

STATE: Final = Path("sam/assets/sam_migrate")
MODELS: Final = Path("sam/assets/core_models")


@dataclass(frozen=True, slots=True, kw_only=True)
class Settings:
    """Where things are; `hub_endpoint` is None for the public Hub."""

    home: Path
    models_dir: Path
    hub_endpoint: str | None = None

    @property
    def state_directory(self) -> Path:
        """Return the directory of our own state."""
        return self.home / STATE

    @property
    def log(self) -> Path:
        """Return the file of the event log."""
        return self.state_directory / "events.db"


def read(
    home: str | os.PathLike[str] | None = None,
    *,
    models_dir: str | os.PathLike[str] | None = None,
    environment: Mapping[str, str] | None = None,
) -> Settings:
    """Fix the settings: `home` is the argument, else `$SAM_HOME`, else the current directory.

    Raises RefusedError where home is not a directory.
    """
    environment = os.environ if environment is None else environment
    place = Path(home or environment.get("SAM_HOME") or Path.cwd()).absolute()
    if not place.is_dir():
        raise RefusedError(f"{place} is not a directory", hint="Name SAM's directory with --home or SAM_HOME.")
    return Settings(
        home=place.resolve(),
        models_dir=place.resolve() / (models_dir or MODELS),
        hub_endpoint=environment.get("HF_ENDPOINT") or None,
    )
