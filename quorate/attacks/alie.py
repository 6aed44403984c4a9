"""ALIE, a little is enough: the honest mean, shifted by less than honest workers differ from each other.

Source: Baruch, Baruch and Goldberg, "A little is enough: circumventing defenses for distributed learning", NeurIPS
2019, algorithm 3.
"""

from __future__ import annotations

from dataclasses import dataclass
from math import isfinite
from statistics import NormalDist
from typing import Annotated, ClassVar

from pydantic import Field
from torch import Tensor

from quorate.attacks import Attack, Seen
from quorate.attacks._vectors import finite_, moments
from quorate.errors import RecipeError


def furthest(n: int, f: int) -> float:
    """Return the z up to which enough honest workers are expected to lie further out that f liars pass for a majority.

    z = Phi^-1((n - f - s) / (n - f)), where s = floor(n / 2 + 1) - f honest supporters are needed. It is 0 where the
    formula gives less, which it does when a majority needs more than half of the honest; where none are needed, z is
    that of half a worker.

    Args:
        n: all workers.
        f: those that lie, fewer than n.
    """
    honest, supporters = n - f, n // 2 + 1 - f
    share = 1 - max(supporters, 0.5) / honest
    return max(0.0, NormalDist().inv_cdf(share)) if share > 0 else 0.0


@dataclass(frozen=True)
class Alie(Attack):
    """Say the honest mean minus z standard deviations, coordinate by coordinate.

    The shift has the same sign in every step, and lies within the honest workers' spread: median, trimmed mean and Krum
    take it for an honest one, and it harms them more than averaging. The more honest updates differ, the more it may
    shift. Momentum on the workers, nearest-neighbour mixing and spectral filters take most of its force.

    Args:
        z: in standard deviations; None: what the source allows itself for this number of workers, see `furthest`, which
            is 0 if liars are few. A usual value is 1.5.

    Raises:
        RecipeError: if z is not finite.
    """

    z: Annotated[float, Field(allow_inf_nan=False)] | None = None
    alike: ClassVar[bool] = True

    def __post_init__(self) -> None:
        if self.z is not None and not isfinite(self.z):
            raise RecipeError(f"alie needs a finite z, got {self.z}", "z = 1.5")

    def forge(self, seen: Seen) -> Tensor:
        """Return mean - z deviation of the known updates: (d,)."""
        centre, deviation = moments(seen.known)
        z = furthest(seen.n, seen.f) if self.z is None else self.z
        return finite_(centre.sub_(deviation, alpha=z))


EXAMPLES = (Alie(), Alie(1.5))
