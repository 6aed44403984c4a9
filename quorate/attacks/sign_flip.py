"""Sign flip: the honest mean with its sign turned round.

Source: Li, Xu, Chen, Giannakis and Ling, "RSA: Byzantine-robust stochastic aggregation methods for distributed learning
from heterogeneous datasets", AAAI 2019, the sign-flipping attack; there each turns round, and lengthens, its own.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

from torch import Tensor

from quorate.aggregators.mean import mean
from quorate.attacks import Attack, Seen
from quorate.attacks._vectors import finite_


@dataclass(frozen=True)
class SignFlip(Attack):
    """Say the mean of the honest updates that the hostile know, negated.

    Slows plain averaging down, to 1 - 2 f / n of its steps, and no more; as long as the honest mean, so that clipping
    to a norm does nothing. Found by whatever compares distances where honest updates resemble each other.
    """

    alike: ClassVar[bool] = True

    def forge(self, seen: Seen) -> Tensor:
        """Return the honest mean, negated: (d,)."""
        return finite_(mean(seen.known).neg_())
