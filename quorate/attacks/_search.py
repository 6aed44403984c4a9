"""How the hostile find the most harmful size of a message, knowing the rule by which it will be combined.

Source: Shejwalkar and Houmansadr, "Manipulating the Byzantine: optimizing model poisoning attacks and defenses for
federated learning", NDSS 2021, attacks that know the aggregator; there the size is the largest that gets accepted, here
the one that moves the result furthest.
"""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from itertools import pairwise
from math import isfinite
from typing import Annotated, Any

from pydantic import Field
from torch import Tensor

from quorate.aggregators import Aggregator, what_it_is_given
from quorate.attacks import Seen
from quorate.errors import QuorateError, RecipeError

Evaluations = Annotated[int, Field(ge=2, le=1000)]
Most = Annotated[float, Field(gt=0, allow_inf_nan=False)]
_SPAN = 1000  # the largest size tried over the smallest


def check(name: str, most: float, evaluations: int) -> None:
    """Raise RecipeError if a search can't be made with these."""
    if not 0 < most < float("inf"):
        raise RecipeError(f"{name} needs a positive `most`, got {most}", "most = 10.0")
    if evaluations < 2:
        raise RecipeError(f"{name} needs at least 2 evaluations, got {evaluations}", "evaluations = 16")


def most_harmful(
    seen: Seen, centre: Tensor, message: Callable[[float], Tensor], most: float, evaluations: int
) -> Tensor:
    """Return the message that moves the result of the aggregator furthest from the honest mean.

    Half of the evaluations try sizes in geometric progression up to the largest, the others halve the two gaps around
    the best so far. What the hostile don't know is filled up with copies of what they do.

    Args:
        centre: (d,), the honest mean.
        message: size -> (d,), finite.
        most: the largest size.
        evaluations: how often the aggregator is called.
    """
    rehearsal, combine = _rehearsal(seen), _combining(seen)

    def harm(size: float) -> float:
        rehearsal[-seen.f :] = message(size)
        try:
            moved = float((combine(rehearsal) - centre).double().norm())
        except QuorateError:
            return -1.0
        return moved if isfinite(moved) else float("inf")

    coarse = max(2, evaluations // 2)
    tried = {size: harm(size) for size in (most * _SPAN ** (-k / (coarse - 1)) for k in range(coarse))}
    while len(tried) < evaluations:
        sizes, best = sorted(tried), _best(tried)
        gaps = [(low, high) for low, high in pairwise(sizes) if best in (low, high)]
        low, high = max(gaps, key=lambda gap: gap[1] - gap[0])
        if not low < (low + high) / 2 < high:
            break
        tried[(low + high) / 2] = harm((low + high) / 2)
    return message(_best(tried))


def _best(tried: dict[float, float]) -> float:
    """Return the most harmful size; of equals, the largest."""
    return max(tried, key=lambda size: (tried[size], size))


def _rehearsal(seen: Seen) -> Tensor:
    """Return (n, d): the known updates, repeated until they are as many as the honest, and f rows to be forged."""
    m, d = seen.known.shape
    honest = max(m, seen.n - seen.f)
    rehearsal = seen.known.new_empty(honest + seen.f, d)
    for row in range(honest):
        rehearsal[row] = seen.known[row % m]
    return rehearsal


def _combining(seen: Seen) -> Aggregator:
    """Return the aggregator, with what it is given at every meeting filled in, as far as it is not yet."""
    part: Any = seen.aggregator
    filled: set[str] = set()
    while isinstance(part, partial):
        filled |= set(part.keywords)
        part = part.func
    known: dict[str, Any] = {"last": seen.last, "rand": seen.at.shared.fold("aggregation")}
    missing = what_it_is_given(seen.aggregator) - filled
    return partial(seen.aggregator, **{name: known[name] for name in sorted(missing)})
