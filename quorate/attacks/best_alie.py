"""The most harmful ALIE: its z is searched for against the rule by which updates are combined.

Source: Baruch, Baruch and Goldberg, "A little is enough: circumventing defenses for distributed learning", NeurIPS
2019, for what is said; the search is described in `quorate.attacks._search`.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

from torch import Tensor

from quorate.attacks import Attack, Seen
from quorate.attacks._search import Evaluations, Most, check, most_harmful
from quorate.attacks._vectors import finite_, moments


@dataclass(frozen=True)
class BestAlie(Attack):
    """Say mean - z deviation, with the z that moves the known aggregator furthest from the honest mean.

    The strongest general attack of this folder against rules that select rows, since it ends just inside what they
    accept. It takes the time of `evaluations` aggregations in every meeting. Good against it is what helps against
    `alie`; against plain averaging it goes as far as `most` lets it.

    Args:
        most: the largest z tried; the smallest is a thousandth of it.
        evaluations: how often the aggregator is called.

    Raises:
        RecipeError: if `most` is not positive, or there are fewer than 2 evaluations.
    """

    most: Most = 10.0
    evaluations: Evaluations = 16
    alike: ClassVar[bool] = True

    def __post_init__(self) -> None:
        check("best_alie", self.most, self.evaluations)

    def forge(self, seen: Seen) -> Tensor:
        """Return mean - z deviation of the known updates: (d,)."""
        centre, deviation = moments(seen.known)

        def message(z: float) -> Tensor:
            return finite_(centre.sub(deviation, alpha=z))

        return most_harmful(seen, centre, message, self.most, self.evaluations)
