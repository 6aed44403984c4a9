"""What is learned: a model, a loss, data, and how the outcome is measured.

A ready task is a function in a file of the same name; its keyword arguments are the keys of the recipe's
`[task]` table. A user's own is the same kind of function anywhere: `name = "my_module:my_task"` or
`name = "folder/file.py:my_task"`.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field

from torch import Tensor, nn

from quorate.errors import DataError


@dataclass(frozen=True)
class Data:
    """Samples with their targets.

    Args:
        x: (n, ...), one entry per sample.
        y: (n, ...), the targets; integer class labels are needed by the partitions by label.
        key: (n,), integers; samples of one key belong together (a writer, a hospital). For natural partitions.

    Raises:
        DataError: if x, y and key differ in n.
    """

    x: Tensor
    y: Tensor
    key: Tensor | None = None

    def __post_init__(self) -> None:
        lengths = [len(self.x), len(self.y)] + ([len(self.key)] if self.key is not None else [])
        if len(set(lengths)) != 1:
            raise DataError(f"x, y and key must hold one entry per sample, but hold {', '.join(map(str, lengths))}")

    def __len__(self) -> int:
        return len(self.x)


@dataclass(frozen=True)
class Task:
    """A model, its loss, the data, and the measures of success.

    Args:
        model: builds the module; its initial parameters may use torch's global random state, which is set from
            the run's seed around the call.
        loss: (output, y) -> scalar, the *mean* over the batch's samples.
        train: what is divided among the workers.
        test: what the model is measured on; never trained on.
        metrics: name -> (output, y) -> float over the whole test set; `accuracy` is reported by name.
        l2: adds l2/2 * |parameters|^2 to every worker's loss.
    """

    model: Callable[[], nn.Module]
    loss: Callable[[Tensor, Tensor], Tensor]
    train: Data
    test: Data
    metrics: Mapping[str, Callable[[Tensor, Tensor], float]] = field(default_factory=dict)
    l2: float = 0.0


def accuracy(output: Tensor, y: Tensor) -> float:
    """Return the share of samples whose largest output is the label, in [0, 1].

    Args:
        output: (n, classes).
        y: (n,), integer labels.
    """
    return float((output.argmax(dim=1) == y).double().mean())
