"""Gaussian: noise in place of an update.

Source: Blanchard, El Mhamdi, Guerraoui and Stainer, "Machine learning with adversaries: Byzantine tolerant gradient
descent", NeurIPS 2017, section on experiments: mean 0. Their deviation of 200 was not checked here.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Annotated

import torch
from pydantic import Field
from torch import Tensor

from quorate.attacks import Attack, Seen
from quorate.attacks._vectors import finite_
from quorate.errors import RecipeError


@dataclass(frozen=True)
class Gaussian(Attack):
    """Say independent normal noise of mean 0; every colluder draws its own, anew in every step.

    Drowns the honest updates under plain averaging: the model wanders. The noise points nowhere, so that whatever
    bounds lengths withstands it, and so do the median and its kin.

    Args:
        deviation: of every entry, in the units of an update.

    Raises:
        RecipeError: if the deviation is not positive.
    """

    deviation: Annotated[float, Field(gt=0, allow_inf_nan=False)] = 200.0

    def __post_init__(self) -> None:
        if not 0 < self.deviation < float("inf"):
            raise RecipeError(f"gaussian needs a positive deviation, got {self.deviation}", "deviation = 200.0")

    def forge(self, seen: Seen) -> Tensor:
        """Return noise: (d,)."""
        generator = seen.at.own.fold("gaussian").generator()
        noise = torch.randn(len(seen.own), generator=generator).to(seen.own.device, seen.own.dtype)
        return finite_(noise.mul_(self.deviation))
