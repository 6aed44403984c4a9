"""What is done to the updates of several workers before they are aggregated: mixing, bucketing, clipping.

A pre-aggregator is a function in a file of its name, `(updates: (n, d), *, f: int, ...) -> (m, d)`, which writes to
nothing that it is given. Arguments that `quorate.aggregators.given` names are filled in at every meeting. In a recipe,
each has a table [[pre_aggregator]]; they follow one another in that order, and [aggregator] comes last.
"""

from __future__ import annotations

from typing import Protocol

from torch import Tensor


class PreAggregator(Protocol):
    """A function of the workers' updates."""

    def __call__(self, updates: Tensor) -> Tensor:
        """Return updates (m, d) to be aggregated instead of updates (n, d)."""
