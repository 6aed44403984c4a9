"""What becomes of the updates of several workers, when they are decoded: pre-aggregation and aggregation.

If a run is attacked, forged updates take their places here; and here workers are judged by what they have said.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from quorate.aggregators import Aggregator, claimed, most_of, name_of, what_it_is_given
from quorate.hostility import Hostility
from quorate.pre_aggregators import PreAggregator
from quorate.rand import At
from quorate.suspicion import Judgement, scores
from quorate.wire import Opens


@dataclass(frozen=True)
class PreAggregated:
    """An aggregator of what pre-aggregators make of the updates; it is used like any other.

    Args:
        before: in the order in which they follow one another.
    """

    before: tuple[PreAggregator, ...]
    aggregator: Aggregator
    opens: Opens = Opens.EACH

    @property
    def __name__(self) -> str:
        return " after ".join(name_of(each) for each in (self.aggregator, *reversed(self.before)))

    @property
    def f(self) -> int:
        """How many arbitrary updates the aggregator was told to withstand."""
        return claimed(self.aggregator)

    @property
    def given(self) -> frozenset[str]:
        """What any of them is given at every meeting."""
        return frozenset().union(*(what_it_is_given(each) for each in (*self.before, self.aggregator)))

    def most(self, n: int) -> int:
        """Return how many arbitrary updates of n the aggregator withstands."""
        return most_of(self.aggregator, n)

    def __call__(self, updates: Tensor, weights: Tensor | None = None, **given: Any) -> Tensor:
        """Combine updates (n, d) into (d,); see `quorate.aggregators.Aggregator`."""
        for each in self.before:
            updates = each(updates, **_of(each, given))
        weights = weights if weights is not None and len(weights) == len(updates) else None
        return self.aggregator(updates, weights, **_of(self.aggregator, given))


def _of(part: Any, given: dict[str, Any]) -> dict[str, Any]:
    return {name: given[name] for name in what_it_is_given(part)}


def combine(
    aggregator: Aggregator,
    updates: Sequence[Tensor],
    weights: Sequence[float] | None,
    at: At,
    ranks: Sequence[int],
    *,
    last: Tensor | None = None,
    peer: int | None = None,
    hostility: Hostility | None = None,
    judged: Callable[[Judgement], None] | None = None,
) -> Tensor:
    """Combine updates (d,) of some workers into one (d,).

    Args:
        ranks: whose they are.
        last: (d,), what the meeting before has come to; where each worker hears others, its own parameters; None:
            there was none, or nobody has kept it.
        peer: who combines them, where each worker hears others; what is forged is the difference from `last`.
        hostility: puts forged updates in the places of some.
        judged: is told each worker's score.
    """
    if hostility is not None:
        centre = last if peer is not None else None  # what peers say to one another are parameters, not updates
        moved = updates if centre is None else [each - centre for each in updates]
        forged, present = hostility.staged(moved, ranks, at, aggregator, None if peer is not None else last, peer)
        updates = forged if centre is None else [each + centre for each in forged]
        ranks = [ranks[place] for place in present]
        weights = None if weights is None else [weights[place] for place in present]
    stacked = torch.stack(list(updates))
    along: Any = None if weights is None else torch.tensor(weights, dtype=torch.float64)
    known = {"last": last, "rand": at.shared.fold("aggregation") if peer is None else at.own.fold("aggregation")}
    given = {name: known[name] for name in what_it_is_given(aggregator)}
    combined = aggregator(stacked, along, **given)
    if judged is not None:
        judged(Judgement(at, tuple(ranks), lambda: scores(stacked, combined), alone=peer is not None))
    return combined
