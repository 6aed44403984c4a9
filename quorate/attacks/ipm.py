"""IPM, inner product manipulation: the honest mean times a small negative number.

Source: Xie, Koyejo and Gupta, "Fall of empires: breaking Byzantine-tolerant SGD by inner product manipulation", UAI
2019, section 4.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Annotated, ClassVar

from pydantic import Field
from torch import Tensor

from quorate.aggregators.mean import mean
from quorate.attacks import Attack, Seen
from quorate.attacks._vectors import finite_
from quorate.errors import RecipeError


@dataclass(frozen=True)
class Ipm(Attack):
    """Say -epsilon times the mean of the honest updates that the hostile know.

    What robust rules bound is a distance; near a minimum, or where honest updates differ much, a short vector of the
    wrong direction lies within it, and is closer to everybody than the honest are to each other: Krum and the geometric
    median go the wrong way at a small epsilon. Plain averaging needs epsilon > (n - f) / f to go uphill.

    Args:
        epsilon: positive; the source's values were not checked here.

    Raises:
        RecipeError: if epsilon is not positive.
    """

    epsilon: Annotated[float, Field(gt=0, allow_inf_nan=False)] = 0.1
    alike: ClassVar[bool] = True

    def __post_init__(self) -> None:
        if not 0 < self.epsilon < float("inf"):
            raise RecipeError(f"ipm needs a positive epsilon, got {self.epsilon}", "epsilon = 0.1")

    def forge(self, seen: Seen) -> Tensor:
        """Return -epsilon times the honest mean: (d,)."""
        return finite_(mean(seen.known).mul_(-self.epsilon))
