"""Equivocation: different messages to different peers.

Source: Lamport, Shostak and Pease, "The Byzantine generals problem", ACM TOPLAS 4(3), 1982, for the fault; He,
Karimireddy and Jaggi, "Byzantine-robust decentralized learning via ClippedGossip", 2022, for driving honest workers of
a graph apart.
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
class Equivocate(Attack):
    """Pull peers of even rank one way, and those of odd rank the other, by a fixed direction.

    Where workers talk to neighbours, it drives them apart although each message looks like an honest one; clipped
    gossip and mixing of nearest neighbours bound it. What all are told together, or a server, is one message, that to
    the even. The direction is a sign per coordinate, drawn once from the run's seed.

    Args:
        strength: how far from the honest mean, in standard deviations of the honest, per coordinate.

    Raises:
        RecipeError: if the strength is not positive.
    """

    strength: Annotated[float, Field(gt=0, allow_inf_nan=False)] = 1.5
    alike: ClassVar[bool] = True

    def __post_init__(self) -> None:
        if not 0 < self.strength < float("inf"):
            raise RecipeError(f"equivocate needs a positive strength, got {self.strength}", "strength = 1.5")

    def forge(self, seen: Seen) -> Tensor:
        """Return what the even peers hear: (d,)."""
        return self.forge_for(seen, 0)

    def forge_for(self, seen: Seen, peer: int) -> Tensor:
        """Return mean + strength deviation sign for an even peer, mean - strength deviation sign for an odd one."""
        centre, deviation = moments(seen.known)
        direction = signs(seen.at.rand.fold("equivocate"), centre)
        return finite_(centre.addcmul_(deviation, direction, value=-self.strength if peer % 2 else self.strength))
