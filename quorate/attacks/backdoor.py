"""Backdoor: samples with a trigger are to be given one label, and everything else is to stay as it is.

Source: Gu, Dolan-Gavitt and Garg, "BadNets: identifying vulnerabilities in the machine learning model supply chain",
2017 (trigger pixels); Bagdasaryan, Veit, Hua, Estrin and Shmatikov, "How to backdoor federated learning", AISTATS 2020,
section 4 (model replacement).
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import Annotated

import torch
from pydantic import Field
from torch import Tensor

from quorate.attacks import Attack, Seen
from quorate.attacks._vectors import finite_
from quorate.errors import RecipeError
from quorate.rand import Rand
from quorate.tasks import Data


@dataclass(frozen=True)
class Backdoor(Attack):
    """Train on samples of which some carry a trigger and the target label, and say a lengthened update.

    Accuracy on the test data stays as it was: look at the share of triggered samples that are given the target, see
    `success`. With model replacement, f workers set the average alone; clipping to a norm stops that, and any rule that
    looks at rows does. Without it (`boost = 1`), it is as hard to see as `label_flip`.

    Args:
        target: the label.
        share: of the worker's samples that are poisoned, in (0, 1], at least one; which ones, chance decides.
        size: side of the square of pixels in the last corner of images, x (n, ..., h, w); of other samples, x (n, ...),
            the last size^2 entries, or all if there are fewer.
        value: what the trigger's pixels are set to; 1 is white where pixels are in [0, 1].
        boost: what the update is multiplied by; None: n / f, after which the average is what the f hostile have said,
            up to the honest updates, which have become small when training is about to end.

    Raises:
        RecipeError: if the share is not in (0, 1], the boost not positive, or the size or the target too small.
    """

    target: Annotated[int, Field(ge=0)] = 0
    share: Annotated[float, Field(gt=0, le=1)] = 0.5
    size: Annotated[int, Field(ge=1)] = 3
    value: Annotated[float, Field(allow_inf_nan=False)] = 1.0
    boost: Annotated[float, Field(gt=0, allow_inf_nan=False)] | None = None

    def __post_init__(self) -> None:
        if not 0 < self.share <= 1:
            raise RecipeError(f"backdoor poisons a share of the samples in (0, 1], got {self.share}", "share = 0.5")
        if self.boost is not None and not 0 < self.boost < float("inf"):
            raise RecipeError(f"backdoor needs a positive boost, got {self.boost}", "boost = 1")
        if self.size < 1 or self.target < 0:
            raise RecipeError(
                f"backdoor needs a size from 1 and a target from 0 on, got {self.size} and {self.target}", "size = 3"
            )

    def triggered(self, x: Tensor) -> Tensor:
        """Return samples (n, ...) with the trigger, as a tensor of their own, of the same dtype."""
        x = x.clone(memory_format=torch.contiguous_format)
        value = self.value if x.is_floating_point() else int(self.value)
        if x.dim() > 2:
            x[..., -self.size :, -self.size :] = value
        else:
            x.view(len(x), -1)[:, -(self.size**2) :] = value
        return x

    def poisoned(self, data: Data, classes: int, rand: Rand) -> Data:
        """Return the data with some samples triggered, and labelled as the target."""
        if not len(data):
            return data
        order = torch.randperm(len(data), generator=rand.fold("backdoor").generator())
        chosen = order[: max(1, round(self.share * len(data)))].to(data.x.device)
        x, y = data.x.clone(), data.y.clone()
        x[chosen] = self.triggered(x[chosen])
        y[chosen.to(y.device)] = self.target
        return replace(data, x=x, y=y)

    def success(self, output: Tensor, y: Tensor) -> float:
        """Return the share of triggered samples of other labels that are given the target, in [0, 1]; 0 if none.

        Args:
            output: (n, classes), what the model makes of `triggered(x)`.
            y: (n,), the true labels.
        """
        others = output[y != self.target]
        return float((others.argmax(dim=1) == self.target).double().mean()) if len(others) else 0.0

    def forge(self, seen: Seen) -> Tensor:
        """Return the own update, lengthened: (d,)."""
        boost = seen.n / seen.f if self.boost is None else self.boost
        return finite_(seen.own * boost)


EXAMPLES = (Backdoor(), Backdoor(target=1, share=1.0, size=1, boost=1.0))
