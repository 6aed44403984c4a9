"""What can be said of a program before it runs: whether it fits so many workers, and how it will go about its work."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from typing import Any, TypeVar

P = TypeVar("P", bound=Callable[..., Any])


@dataclass(frozen=True)
class Plan:
    """How a program will use a number of ranks.

    Args:
        trainers: how many ranks, the first ones, hold data and take gradients; the others serve.
        may_leave: ranks that can leave while the program goes on with the others by itself.
        meets: all ranks meet in exchanges; otherwise they talk in pairs.
        alone: workers talk in connections of two (tags from 1 of `Node.send`), which take tensors on the CPU.
        federated: it is the program of a federation's server, over `quorate.federated.Server`.
        says: (label, text) lines for `quorate check`.
    """

    trainers: int
    may_leave: frozenset[int] = frozenset()
    meets: bool = True
    alone: bool = False
    federated: bool = False
    says: tuple[tuple[str, str], ...] = ()

    @property
    def survives(self) -> bool:
        """Whether the program itself goes on when a rank leaves, at least if it is one of some."""
        return bool(self.may_leave)


def planned(plan: Callable[..., Plan]) -> Callable[[P], P]:
    """Attach a function `(size, *, ...) -> Plan` to a program, which is given the program's own settings.

    It raises RecipeError if the program can't run on so many ranks with these settings.
    """

    def declare(program: P) -> P:
        program.plan = plan  # type: ignore[attr-defined]
        return program

    return declare


def plan_of(program: Any, size: int, **more: Any) -> Plan:
    """Return the plan of a program whose settings are filled in; all ranks train if it has declared none.

    Args:
        more: what else the plan may look at, e.g. the `exchange`.

    Raises:
        RecipeError: if it can't run on so many ranks.
    """
    settings: dict[str, Any] = {}
    while isinstance(program, partial):
        settings = dict(program.keywords) | settings
        program = program.func
    plan = getattr(program, "plan", None)
    return Plan(trainers=size) if plan is None else plan(size, **settings, **more)
