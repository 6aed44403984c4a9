"""Entries that are not finite: NaN, or plus or minus infinity.

Missing from published catalogues; a diverged or overheated machine says the same without meaning harm.
"""

from __future__ import annotations

from dataclasses import dataclass
from math import ceil
from typing import Annotated, Literal

import torch
from pydantic import Field
from torch import Tensor

from quorate.attacks import Attack, Seen
from quorate.errors import RecipeError


@dataclass(frozen=True)
class NotFinite(Attack):
    """Say an update of which some entries, or all, are not finite.

    One such update makes every sum of the rows NaN or infinite, and a rule that compares distances with NaN may choose
    just that row. Does nothing where rows that are not finite are screened first.

    Args:
        value: what the entries are.
        share: of the entries, in (0, 1], at least one; the others are the worker's honest ones. The places are drawn
            anew in every meeting, and are the same for all colluders.

    Raises:
        RecipeError: if the share is not in (0, 1], or the value is none of the three.
    """

    value: Literal["nan", "inf", "-inf"] = "nan"
    share: Annotated[float, Field(gt=0, le=1)] = 1.0

    def __post_init__(self) -> None:
        if self.value not in ("nan", "inf", "-inf"):
            raise RecipeError(f'not_finite says "nan", "inf" or "-inf", got {self.value!r}', 'value = "nan"')
        if not 0 < self.share <= 1:
            raise RecipeError(f"not_finite needs a share of the entries in (0, 1], got {self.share}", "share = 1.0")

    def forge(self, seen: Seen) -> Tensor:
        """Return the worker's own update, with entries replaced: (d,)."""
        d = len(seen.own)
        if self.share == 1:
            return torch.full_like(seen.own, float(self.value))
        forged = seen.own.clone()
        places = torch.randperm(d, generator=seen.at.shared.fold("not_finite").generator())
        forged[places[: ceil(self.share * d)].to(forged.device)] = float(self.value)
        return forged


EXAMPLES = (NotFinite(), NotFinite("inf"), NotFinite("-inf"), NotFinite("nan", share=0.01))
