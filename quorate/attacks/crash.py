"""Crash: the worker says nothing.

The mildest fault; a rule that needs everybody's update waits for ever, and one that was told n must count the silent.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Annotated

import torch
from pydantic import Field
from torch import Tensor

from quorate.attacks import Attack, Seen
from quorate.errors import RecipeError


@dataclass(frozen=True)
class Crash(Attack):
    """Say nothing, from a step on, or now and then; the honest update otherwise.

    Every rule withstands it that is given the updates that have come. What is lost is what the silent ones' data would
    have taught: where workers' data differ, that is a bias.

    Args:
        step: the first that may be silent.
        probability: of being silent, from then on, drawn by every worker in every step.

    Raises:
        RecipeError: if the step is negative or the probability not in (0, 1].
    """

    step: Annotated[int, Field(ge=0)] = 0
    probability: Annotated[float, Field(gt=0, le=1)] = 1.0

    def __post_init__(self) -> None:
        if self.step < 0:
            raise RecipeError(f"crash starts at a step from 0 on, got {self.step}", "step = 0")
        if not 0 < self.probability <= 1:
            raise RecipeError(f"crash needs a probability in (0, 1], got {self.probability}", "probability = 1.0")

    def forge(self, seen: Seen) -> Tensor | None:
        """Return None, or a copy of the honest update: (d,)."""
        if seen.at.step < self.step:
            return seen.own.clone()
        drawn = float(torch.rand((), generator=seen.at.own.fold("crash").generator(), dtype=torch.float64))
        return None if drawn < self.probability else seen.own.clone()


EXAMPLES = (Crash(), Crash(step=5), Crash(probability=0.5))
