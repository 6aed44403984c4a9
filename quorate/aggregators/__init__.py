"""How the updates of several workers are combined into one.

An aggregator is a function in a file of its name, `(updates: (n, d), weights: (n,) | None, *, ...) -> (d,)`, whose
keyword arguments are filled in by `functools.partial`. `@needs` declares what it must see.

A robust one has a keyword argument `f`, how many updates may be arbitrary, and declares by `@withstands` up to which f
its theorem holds. It takes no notice of weights, which workers claim for themselves, but that it checks them. `@given`
names those of its keyword arguments that are not set by a recipe but filled in at every meeting:

- `last`: (d,) or None: what the meeting before has come to;
- `rand`: `Rand`: a stream of this meeting that all workers share.
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


def withstands(most: Callable[[int], int]) -> Callable[[F], F]:
    """Declare up to how many arbitrary updates of n an aggregator's theorem allows; below 0 if n is too small."""

    def declare(aggregator: F) -> F:
        aggregator.most = most  # type: ignore[attr-defined]
        return aggregator

    return declare


def given(*names: str) -> Callable[[F], F]:
    """Declare keyword arguments that are filled in at every meeting: "last" and "rand"."""

    def declare(aggregator: F) -> F:
        aggregator.given = frozenset(names)  # type: ignore[attr-defined]
        return aggregator

    return declare


def what_it_is_given(aggregator: Any) -> frozenset[str]:
    """Return the keyword arguments of an aggregator that are filled in at every meeting."""
    while isinstance(aggregator, partial):
        aggregator = aggregator.func
    found: frozenset[str] = getattr(aggregator, "given", frozenset())
    return found


def most_of(aggregator: Any, n: int) -> int:
    """Return how many arbitrary updates of n an aggregator withstands by its theorem; 0 if it claims none."""
    while isinstance(aggregator, partial):
        aggregator = aggregator.func
    return max(0, aggregator.most(n)) if hasattr(aggregator, "most") else 0


def claimed(aggregator: Any) -> int:
    """Return how many arbitrary updates an aggregator was told to withstand, its `f`; 0 if it has none."""
    told: dict[str, object] = {}
    while isinstance(aggregator, partial):
        told = {**aggregator.keywords, **told}
        aggregator = aggregator.func
    return int(str(told.get("f", getattr(aggregator, "f", 0))))


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
