"""Constant: the same number in every entry.

Source: Chen, Wang, Charles and Papailiopoulos, "DRACO: Byzantine-resilient distributed training via redundant
gradients", ICML 2018, section 5: -100.
"""

from __future__ import annotations

from dataclasses import dataclass
from math import isfinite
from typing import Annotated, ClassVar

import torch
from pydantic import Field
from torch import Tensor

from quorate.attacks import Attack, Seen
from quorate.attacks._vectors import largest
from quorate.errors import RecipeError


@dataclass(frozen=True)
class Constant(Attack):
    """Say one number in every entry, in every step.

    Breaks plain averaging. All colluders say the same, which is what rules that look for close neighbours mistake for
    agreement once f exceeds what they were built for. Any robust rule withstands it.

    Args:
        value: the number; what the dtype can't hold becomes the largest that it can.

    Raises:
        RecipeError: if the value is not finite.
    """

    value: Annotated[float, Field(allow_inf_nan=False)] = -100.0
    alike: ClassVar[bool] = True

    def __post_init__(self) -> None:
        if not isfinite(self.value):
            raise RecipeError(f"constant says a finite number, got {self.value}", 'name = "not_finite"')

    def forge(self, seen: Seen) -> Tensor:
        """Return the constant: (d,)."""
        return torch.full_like(seen.own, largest(self.value, seen.own))


EXAMPLES = (Constant(), Constant(0.0))
