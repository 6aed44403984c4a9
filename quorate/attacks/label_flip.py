"""Label flip: honest training on wrong labels.

Source: Fung, Yoon and Beschastnikh, "The limitations of federated learning in sybil settings", RAID 2020, for one label
that is called another; all labels turned round, y -> C - 1 - y, is what benchmarks of robust aggregation use.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import Annotated

import torch
from pydantic import Field
from torch import Tensor

from quorate.attacks import Attack
from quorate.errors import RecipeError
from quorate.rand import Rand
from quorate.tasks import Data

Label = Annotated[int, Field(ge=0)] | None


@dataclass(frozen=True)
class LabelFlip(Attack):
    """Train on labels turned round: 0 becomes the last, 1 the last but one.

    What is said is the true gradient of a wrong problem: as long as an honest one, and hardly further from the others
    than those of workers with unusual data. Under plain averaging it costs some accuracy, up to all as f nears n / 2.
    Rules that see distances find it only where the workers' data are alike.

    Args:
        source: the label that is changed; None: every one.
        target: the label that it becomes; None: C - 1 - y of C labels. Labels that are not counted from 0 are turned
            round about zero if some are negative (-1 and 1), and those that are no integers about the middle of the
            worker's own.

    Raises:
        RecipeError: if a label is negative, or source and target are the same.
    """

    source: Label = None
    target: Label = None

    def __post_init__(self) -> None:
        if min(self.source or 0, self.target or 0) < 0:
            raise RecipeError(f"label_flip changes labels from 0 on, got {self.source} and {self.target}", "target = 0")
        if self.source is not None and self.source == self.target:
            raise RecipeError(f"label_flip turns {self.source} into itself", f"target = {self.source + 1}")

    def poisoned(self, data: Data, classes: int, rand: Rand) -> Data:
        """Return the data with other labels; x and key are the same tensors."""
        y = _turned(data.y, classes) if self.target is None else torch.full_like(data.y, self.target)
        return replace(data, y=y if self.source is None else torch.where(data.y == self.source, y, data.y))


def _turned(y: Tensor, classes: int) -> Tensor:
    """Return labels turned round, of the same shape and dtype."""
    if not y.numel():
        return y.clone()
    if y.is_floating_point():
        return y.min() + y.max() - y
    return -y if y.min() < 0 else classes - 1 - y


EXAMPLES = (LabelFlip(), LabelFlip(source=0, target=1))
