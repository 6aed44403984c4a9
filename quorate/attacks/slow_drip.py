"""Slow drip: a small bias of the same direction in every step.

Ours. In one step it can't be told from honest noise; over many, noise averages out and the bias adds up.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Annotated, ClassVar

from pydantic import Field
from torch import Tensor

from quorate.attacks import Attack, Seen
from quorate.attacks._vectors import finite_, moments, signs
from quorate.errors import RecipeError


@dataclass(frozen=True)
class SlowDrip(Attack):
    """Say the honest mean plus a small multiple of the standard deviation, along one direction of the whole run.

    The direction is a sign per coordinate, drawn once from the run's seed. It lies deeper inside the honest spread than
    any honest update does, so that selecting rules prefer it. Rules whose error vanishes with the liars' distance bound
    the damage; what finds it is a sum over many steps, such as momentum of the workers, or of their scores.

    Args:
        strength: in standard deviations of the honest updates, per coordinate.

    Raises:
        RecipeError: if the strength is not positive.
    """

    strength: Annotated[float, Field(gt=0, allow_inf_nan=False)] = 0.3
    alike: ClassVar[bool] = True

    def __post_init__(self) -> None:
        if not 0 < self.strength < float("inf"):
            raise RecipeError(f"slow_drip needs a positive strength, got {self.strength}", "strength = 0.3")

    def forge(self, seen: Seen) -> Tensor:
        """Return mean + strength deviation sign: (d,)."""
        centre, deviation = moments(seen.known)
        direction = signs(seen.at.rand.fold("slow_drip"), centre)
        return finite_(centre.addcmul_(deviation, direction, value=self.strength))
