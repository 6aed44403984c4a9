"""Huge: numbers that are finite, but whose squares, or sums, are not.

Missing from published catalogues. Screening for NaN lets them pass, and then a sum, a squared distance or a product of
two rows overflows to infinity, and the difference of two infinities is NaN.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Annotated

import torch
from pydantic import Field
from torch import Tensor

from quorate.attacks import Attack, Seen
from quorate.attacks._vectors import largest
from quorate.errors import RecipeError


@dataclass(frozen=True)
class Huge(Attack):
    """Say a number of enormous size in every entry.

    Breaks plain averaging in one step, and every rule that squares float32 carelessly: float32 ends at 3.4e38, squares
    overflow from 1.8e19 on, in float16 all of this from 65,504 and 256 on. Nothing else of it is hard to find.

    Args:
        value: positive; what the dtype can't hold becomes the largest that it can.
        opposed: every second colluder says minus the value, so that running sums meet infinities of both signs.

    Raises:
        RecipeError: if the value is not positive and finite.
    """

    value: Annotated[float, Field(gt=0, allow_inf_nan=False)] = 1e38
    opposed: bool = False

    def __post_init__(self) -> None:
        if not 0 < self.value < float("inf"):
            raise RecipeError(f"huge says a positive number that is finite, got {self.value}", "value = 1e38")

    def forge(self, seen: Seen) -> Tensor:
        """Return the value, finite in the updates' dtype: (d,)."""
        value = largest(self.value, seen.own)
        return torch.full_like(seen.own, -value if self.opposed and seen.place % 2 else value)


EXAMPLES = (Huge(), Huge(opposed=True), Huge(1e20))
