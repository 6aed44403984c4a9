"""Mimic: all colluders repeat what one honest worker says.

Source: Karimireddy, He and Jaggi, "Byzantine-robust learning on heterogeneous datasets via bucketing", ICLR 2022,
section 3; they follow the direction of largest variance over many steps, here it is that of one meeting.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Annotated, ClassVar

import torch
from pydantic import Field
from torch import Tensor

from quorate.aggregators.mean import mean
from quorate.attacks import Attack, Seen
from quorate.attacks._vectors import blocks
from quorate.errors import RecipeError


@dataclass(frozen=True)
class Mimic(Attack):
    """Say exactly what one honest worker says, so that it counts f + 1 times, and others are taken for outliers.

    Nothing that is said is wrong, and no rule that looks at one meeting can tell. It harms where workers' data differ:
    selecting rules then train on a few workers' data only. Mixing and bucketing bound the damage.

    Args:
        rank: of the worker that is copied; if it lies itself, or its update is not known, the next in a circle. None:
            the one that is furthest from the mean along the direction in which the known updates vary most.

    Raises:
        RecipeError: if the rank is negative.
    """

    rank: Annotated[int, Field(ge=0)] | None = None
    alike: ClassVar[bool] = True

    def __post_init__(self) -> None:
        if self.rank is not None and self.rank < 0:
            raise RecipeError(f"mimic copies a rank from 0 on, got {self.rank}", "rank = 0")

    def forge(self, seen: Seen) -> Tensor:
        """Return a copy of one of the known updates: (d,)."""
        return seen.known[_furthest(seen.known) if self.rank is None else self._place(seen, self.rank)].clone()

    def _place(self, seen: Seen, rank: int) -> int:
        """Return the row of a rank: known are the honest, or else the hostile, in order."""
        size, m = seen.at.size, len(seen.known)
        honest = [each for each in range(size) if each not in seen.hostile]
        ranks = honest if m == len(honest) else list(seen.hostile) if m == seen.f else list(range(m))
        return min(range(m), key=lambda row: (ranks[row] - rank) % max(size, m))


def _furthest(known: Tensor) -> int:
    """Return the row (of m, d) with the largest component, in size, along the first principal direction.

    From the Gram matrix of the centred rows; of equally far ones, the first. O(m^2 d).
    """
    centre, m = mean(known), len(known)
    low, high = known.aminmax()
    size = max(1e-300, abs(float(low)), abs(float(high)))
    gram = torch.zeros(m, m, dtype=torch.float64, device=known.device)
    for start, stop in blocks(known):
        rows = (known[:, start:stop].double() - centre[start:stop].double()) / size
        gram += rows @ rows.T
    component = torch.linalg.eigh(gram.nan_to_num_(0, 0, 0)).eigenvectors[:, -1].abs()
    return int((component > component.max() * (1 - 1e-9)).nonzero()[0])
