"""How the updates of several workers are combined into one.

An aggregator is a function in a file of its name, `(updates: (n, d), weights: (n,) | None, *, ...) -> (d,)`, whose
keyword arguments are filled in by `functools.partial`. `@needs` declares what it must see.
"""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from typing import Any, Protocol, TypeVar

from torch import Tensor

from quorate.wire import Opens

F = TypeVar("F", bound=Callable[..., Tensor])


class Aggregator(Protocol):
    """A function of the workers' updates."""

    def __call__(self, updates: Tensor, weights: Tensor | None = None) -> Tensor:
        """Combine updates of shape (n, d), weighted by (n,) if given, into one of shape (d,)."""


def needs(opens: Opens) -> Callable[[F], F]:
    """Declare that an aggregator works on the total of the updates, or must see each."""

    def declare(aggregator: F) -> F:
        aggregator.opens = opens  # type: ignore[attr-defined]
        return aggregator

    return declare


def what_it_needs(aggregator: Any) -> Opens:
    """Return what an aggregator has declared; one that has declared nothing must see each update."""
    while isinstance(aggregator, partial):
        aggregator = aggregator.func
    return getattr(aggregator, "opens", Opens.EACH)


def name_of(aggregator: Any) -> str:
    """Return an aggregator's name in recipes."""
    while isinstance(aggregator, partial):
        aggregator = aggregator.func
    return str(getattr(aggregator, "__name__", aggregator))
