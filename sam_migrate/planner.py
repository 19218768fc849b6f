"""Plans: PENDING migrations with their preflight report, for upgrades, rollbacks and retries."""

from __future__ import annotations

import re
from dataclasses import replace
from typing import TYPE_CHECKING, Final

from sam_migrate.domain import events, lifecycle
from sam_migrate.errors import BadFileError, RefusedError, UnknownRunError
from sam_migrate.steps import checks

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping

    from sam_migrate.domain.migration import Migration
    from sam_migrate.service import Service
    from sam_migrate.steps.world import World

USER_ID: Final = re.compile(r"[A-Za-z0-9][A-Za-z0-9._@-]{0,63}")
ENGINE_LENGTH_MAX: Final = 200
BYTES_PER_MINUTE: Final = 20 * 1024 * 1024 * 60
CHUNKS_PER_MINUTE: Final = 20 * 60
"""Rough rates of a household line and of two cores, until the probe has measured."""


class Planner:
    """Makes plans; nothing of SAM's is touched."""

    def __init__(self, service: Service, world: World, *, new_id: Callable[[], str]) -> None:
        """Plan with these."""
        self._service = service
        self._world = world
        self._new_id = new_id

    def upgrade(
        self,
        to_engine: str,
        *,
        from_engine: str = "current",
        user_id: str = "default_user",
        backup_lora: bool = True,
        re_embed: bool = True,
        update_prompts: bool = True,
    ) -> Migration:
        """Plan the switch to an engine; an id the catalog does not know is reported by its check, not refused."""
        return self._plan(
            from_engine=from_engine,
            to_engine=to_engine,
            user_id=user_id,
            backup_lora_adapters=backup_lora,
            re_embed_knowledge=re_embed,
            update_prompt_templates=update_prompts,
        )

    def rollback(
        self, migration_id: str | None = None, *, to: str | None = None, user_id: str = "default_user"
    ) -> Migration:
        """Plan to go back to what served before a migration (the last one), or to a kept generation by its id."""
        home = self._service.home()
        if home.active is None:
            raise RefusedError("nothing was ever upgraded here, so there is nothing to go back to")
        target = to
        if target is None:
            committed = home.active
            if migration_id is not None:
                made = [known for known in home.generations if known.run_id == migration_id and known.base]
                if not made:
                    raise UnknownRunError(f"{migration_id} committed no generation")
                committed = made[0]
            replaced = home.find(committed.base or "")
            if replaced is not None and replaced.run_id == committed.run_id and committed.derived_from:
                # A run that failed after its commit went back by itself: what counts is what served before it.
                committed = home.find(committed.derived_from) or committed
            target = committed.base
        generation = home.find(target) if target else None
        if target is None or generation is None:
            raise UnknownRunError(f"no generation {target or 'before this one'} is in the log")
        if target == home.active.generation_id:
            raise RefusedError(f"{target} is what serves now")
        return self._plan(
            from_engine="current",
            to_engine=generation.engine.engine_id,
            user_id=user_id,
            backup_lora_adapters=True,
            re_embed_knowledge=True,
            update_prompt_templates=True,
            target=target,
        )

    def retry(self, migration_id: str, overrides: Mapping[str, str]) -> Migration:
        """Plan a run like one that failed or was cancelled; `overrides` are check ids and why the user takes them."""
        former = self._service.migration(migration_id)
        if former.state not in (lifecycle.FAILED, lifecycle.CANCELLED):
            raise RefusedError(
                f"{migration_id} is {former.status.value}: only a failed or cancelled run is retried",
                hint=f"`sam-migrate resume {migration_id}` goes on with an open one.",
            )
        plan = former.required
        granted = tuple(events.CheckOverridden(check=check, reason=reason) for check, reason in overrides.items())
        return self._plan(
            from_engine=plan.from_engine,
            to_engine=plan.to_engine,
            user_id=plan.user_id,
            backup_lora_adapters=plan.backup_lora_adapters,
            re_embed_knowledge=plan.re_embed_knowledge,
            update_prompt_templates=plan.update_prompt_templates,
            target=plan.target,
            retry_of=migration_id,
            overrides=granted,
        )

    def _plan(
        self,
        *,
        from_engine: str,
        to_engine: str,
        user_id: str,
        backup_lora_adapters: bool,
        re_embed_knowledge: bool,
        update_prompt_templates: bool,
        target: str | None = None,
        retry_of: str | None = None,
        overrides: tuple[events.CheckOverridden, ...] = (),
    ) -> Migration:
        _check_user(user_id)
        if target is None:
            _check_engines(from_engine, to_engine)
        world = self._world
        local = world.clock.now().astimezone().replace(tzinfo=None)
        chunks = world.host.chunk_count()
        planned = events.MigrationPlanned(
            migration_id=f"migration_{user_id}_{local:%Y%m%d_%H%M%S}_{self._new_id()}",
            from_engine=from_engine,
            to_engine=to_engine,
            user_id=user_id,
            created_at=local.isoformat(),
            backup_lora_adapters=backup_lora_adapters,
            re_embed_knowledge=re_embed_knowledge,
            update_prompt_templates=update_prompt_templates,
            affected_lora_adapters=self._adapters_of(user_id),
            knowledge_base_size=chunks,
            estimated_duration_minutes=self._minutes(to_engine, chunks if re_embed_knowledge else 0),
            target=target,
            retry_of=retry_of,
        )
        generation = self._service.home().find(target) if target else None
        judged = checks.plan_checks(world, planned, generation)
        return self._service.plan(replace(planned, checks=judged), overrides)

    def _adapters_of(self, user_id: str) -> tuple[str, ...]:
        try:
            return tuple(known.model_id for known in self._world.host.adapters() if known.user_id == user_id)
        except BadFileError:
            return ()

    def _minutes(self, engine_id: str, chunks: int) -> int:
        try:
            entry = self._world.host.catalog().get(engine_id)
        except BadFileError:
            entry = None
        size = entry.file_size if entry is not None and entry.model_id not in self._service.library() else 0
        return 1 + round(size / BYTES_PER_MINUTE + chunks / CHUNKS_PER_MINUTE)


def _check_user(user_id: str) -> None:
    if not USER_ID.fullmatch(user_id):
        raise RefusedError(
            f"user id {user_id[:40]!r} is not usable",
            hint="Use letters, digits, dot, dash, @ or underscore, at most 64 of them.",
        )


def _check_engines(*engines: str) -> None:
    for engine in engines:
        if not engine or len(engine) > ENGINE_LENGTH_MAX or not engine.isprintable():
            raise RefusedError(
                f"engine id {engine[:40]!r} is not usable", hint="`sam-migrate models list` shows the engines."
            )
