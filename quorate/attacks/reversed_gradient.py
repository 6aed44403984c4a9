"""Reversed gradient: the worker's own update, times a large negative number.

Source: Chen, Wang, Charles and Papailiopoulos, "DRACO: Byzantine-resilient distributed training via redundant
gradients", ICML 2018, section 5: c = 100.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Annotated

from pydantic import Field
from torch import Tensor

from quorate.attacks import Attack, Seen
from quorate.attacks._vectors import finite_
from quorate.errors import RecipeError


@dataclass(frozen=True)
class ReversedGradient(Attack):
    """Say -magnitude times the update that the worker has computed itself.

    Turns plain averaging uphill as soon as f magnitude > n - f: the run diverges. It needs to know nobody else's
    update. Any rule that bounds lengths, or looks at single rows, withstands it.

    Args:
        magnitude: c, positive.

    Raises:
        RecipeError: if the magnitude is not positive.
    """

    magnitude: Annotated[float, Field(gt=0, allow_inf_nan=False)] = 100.0

    def __post_init__(self) -> None:
        if not 0 < self.magnitude < float("inf"):
            raise RecipeError(f"reversed_gradient needs a positive magnitude, got {self.magnitude}", "magnitude = 100")

    def forge(self, seen: Seen) -> Tensor:
        """Return the own update, reversed and lengthened: (d,)."""
        return finite_(seen.own * -self.magnitude)
