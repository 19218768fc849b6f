"""The one list of legal moves, shared by downloads and migrations, and the door every event goes through.

The machine has no callbacks and no conditions. It is flattened once into a table, which is asked when an event is
written and again when it is read, so an illegal history can neither be written nor pass unnoticed.
"""

from __future__ import annotations

from enum import Enum
from typing import Any, Final

from transitions.extensions.nesting import HierarchicalMachine, NestedState

from sam_migrate.errors import IllegalTransitionError


class Status(Enum):
    """The public status of a run: the outer state."""

    PENDING = "pending"
    IN_PROGRESS = "in_progress"
    COMPLETED = "completed"
    FAILED = "failed"
    CANCELLED = "cancelled"


class _State(NestedState):
    separator = "."


class _Machine(HierarchicalMachine):
    state_cls = _State


NEW: Final = ""
PENDING: Final = "pending"
PREPARING: Final = "in_progress.preparing"
COMMITTED: Final = "in_progress.committed"
RETURNING: Final = "in_progress.returning"
COMPLETED: Final = "completed"
FAILED: Final = "failed"
CANCELLED: Final = "cancelled"

OPEN: Final = (PENDING, PREPARING, COMMITTED, RETURNING)
UNCOMMITTED: Final = (PENDING, PREPARING)
TERMINAL: Final = (COMPLETED, FAILED, CANCELLED)

STATES: Final[list[str | dict[str, Any]]] = [
    PENDING,
    {"name": "in_progress", "initial": "preparing", "children": ["preparing", "committed", "returning"]},
    {"name": COMPLETED, "final": True},
    {"name": FAILED, "final": True},
    {"name": CANCELLED, "final": True},
]

TRANSITIONS: Final[list[dict[str, Any]]] = [
    {"trigger": "start", "source": PENDING, "dest": PREPARING},
    # The point of no return: a migration's pointer has moved, a download's file is verified and gets its name.
    {"trigger": "commit", "source": PREPARING, "dest": COMMITTED},
    {"trigger": "return", "source": COMMITTED, "dest": RETURNING},
    {"trigger": "complete", "source": COMMITTED, "dest": COMPLETED},
    {"trigger": "fail", "source": [PENDING, PREPARING, RETURNING], "dest": FAILED},
    {"trigger": "cancel", "source": [PENDING, PREPARING], "dest": CANCELLED},
    {"trigger": "record", "source": list(OPEN), "dest": None},
]

CREATE: Final = "create"


def machine() -> HierarchicalMachine:
    """Build the machine from the declaration, without a model."""
    return _Machine(
        model=None,
        states=STATES,
        transitions=TRANSITIONS,
        initial=PENDING,
        auto_transitions=False,
        send_event=False,
    )


_MACHINE: Final = machine()


def _compile() -> dict[tuple[str, str], str]:
    """Flatten the machine into a table: the same declaration, eighty times as fast."""
    table = {(NEW, CREATE): PENDING}
    for trigger, event in _MACHINE.events.items():
        for source, moves in event.transitions.items():
            table[source, trigger] = moves[0].dest or source
    return table


TABLE: Final = _compile()


def advance(state: str, trigger: str) -> str:
    """Return the state after `trigger`; raise IllegalTransitionError where there is no such move."""
    after = TABLE.get((state, trigger))
    if after is None:
        raise IllegalTransitionError(state or "nothing", trigger)
    return after


def status(state: str) -> Status:
    """Return the outer state."""
    return Status(state.partition(".")[0])
