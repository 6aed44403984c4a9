"""What the tests of sparsifiers share."""

from __future__ import annotations

from torch import Tensor

from quorate import selection
from quorate.codecs._sparsifier import Sparsifier, count
from quorate.rand import At, Rand

AT = At(0, 0, 1, Rand(0))


def energy(codec: Sparsifier, x: Tensor, at: At = AT) -> float:
    """Return the sum of squares of the chosen entries, over that of as many of the largest as the ratio says."""
    k = count(codec.ratio, len(x))  # type: ignore[attr-defined]
    chosen, largest = codec.select(x, at), selection.plain_largest(x, k).indices
    return float(x[chosen].square().sum() / x[largest].square().sum())


def left(codec: Sparsifier, x: Tensor, at: At = AT) -> float:
    """Return ||x - decoded||^2 / ||x||^2."""
    rest = x.clone()
    rest[codec.select(x, at)] = 0
    return float(rest.double().square().sum() / x.double().square().sum().clamp_min(1e-300))


def are_the_largest(x: Tensor, chosen: Tensor) -> bool:
    """Return whether no entry that is left out is larger than one that is chosen, and all are chosen once."""
    others = x.abs().index_fill(0, chosen, 0.0)
    distinct = bool((chosen.diff() > 0).all())
    return distinct and (not len(chosen) or len(chosen) == len(x) or bool(others.max() <= x[chosen].abs().min()))
