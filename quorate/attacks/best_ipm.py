"""The most harmful IPM: its epsilon is searched for against the rule by which updates are combined.

Source: Xie, Koyejo and Gupta, "Fall of empires: breaking Byzantine-tolerant SGD by inner product manipulation", UAI
2019, for what is said; the search is described in `quorate.attacks._search`.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

from torch import Tensor

from quorate.aggregators.mean import mean
from quorate.attacks import Attack, Seen
from quorate.attacks._search import Evaluations, Most, check, most_harmful
from quorate.attacks._vectors import finite_


@dataclass(frozen=True)
class BestIpm(Attack):
    """Say -epsilon times the honest mean, with the epsilon that moves the known aggregator furthest from that mean.

    It takes the time of `evaluations` aggregations in every meeting. Good against it is what helps against `ipm`;
    against plain averaging it goes as far as `most` lets it.

    Args:
        most: the largest epsilon tried; the smallest is a thousandth of it.
        evaluations: how often the aggregator is called.

    Raises:
        RecipeError: if `most` is not positive, or there are fewer than 2 evaluations.
    """

    most: Most = 10.0
    evaluations: Evaluations = 16
    alike: ClassVar[bool] = True

    def __post_init__(self) -> None:
        check("best_ipm", self.most, self.evaluations)

    def forge(self, seen: Seen) -> Tensor:
        """Return -epsilon times the honest mean: (d,)."""
        centre = mean(seen.known)

        def message(epsilon: float) -> Tensor:
            return finite_(centre * -epsilon)

        return most_harmful(seen, centre, message, self.most, self.evaluations)
