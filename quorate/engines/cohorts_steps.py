"""The local steps of several clients side by side: whose samples are in which step, and how parameters move in one."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property

import torch
from torch import Tensor

from quorate.engines.cohorts_layers import Part
from quorate.federated.local import LocalWork
from quorate.optimizer import Optimizer
from quorate.tasks import Data


@dataclass(frozen=True)
class Steps:
    """Works of clients, those with the most steps first.

    Args:
        works: of one batch size, optimizer and so on; see `alike`.
        index: (n, T, b), positions in the training data. What a batch lacks is filled up with the client's own sample.
        sizes: of the n times T batches; 0 for none.
    """

    works: Sequence[LocalWork]
    index: Tensor
    sizes: Sequence[Sequence[int]]

    @classmethod
    def of(cls, works: Sequence[LocalWork]) -> Steps:
        """Lay out works that have at least one step each."""
        sizes = [work.sizes for work in works]
        longest, widest = max(map(len, sizes)), max(map(max, sizes))
        index = torch.stack([_rows(work, widest, longest) for work in works])
        return cls(works, index, [each + [0] * (longest - len(each)) for each in sizes])

    @cached_property
    def active(self) -> list[int]:
        """How many clients have a batch in each step."""
        return [sum(1 for each in self.sizes if each[step]) for step in range(self.index.shape[1])]

    def scale(self, dtype: torch.dtype) -> Tensor:
        """Return (n, T, b): 1 / a batch's size, and 0 where it is filled up."""
        sizes = torch.tensor(self.sizes)
        there = torch.arange(self.index.shape[2]) < sizes.unsqueeze(-1)
        return there.to(dtype) / sizes.clamp_min(1).unsqueeze(-1)


def taken(data: Data, index: Tensor) -> tuple[Tensor, Tensor]:
    """Return the samples at positions (n, k) and their targets: (n, k, ...) each."""
    flat = index.flatten()
    x, y = (each.index_select(0, flat) for each in (data.x, data.y))  # faster than by `[]`
    return x.view(*index.shape, *x.shape[1:]), y.view(*index.shape, *y.shape[1:])


def _rows(work: LocalWork, width: int, steps: int) -> Tensor:
    """Return one client's (T, b) positions."""
    pieces = []
    for order in work.orders:
        size = order.shape[0] if work.batch == "full" else min(work.batch, width)
        missing = -order.shape[0] % max(size, 1)
        rows = (torch.cat([order, order[:1].expand(missing)]) if missing else order).view(-1, size)
        pieces.append(rows if size == width else torch.cat([rows, rows[:, :1].expand(-1, width - size)], dim=1))
    rows = pieces[0] if len(pieces) == 1 else torch.cat(pieces)
    missing = steps - rows.shape[0]
    if missing > 0:
        return torch.cat([rows, rows[:1].expand(missing, -1)])
    return rows[:steps] if missing else rows


def alike(work: LocalWork) -> tuple[object, ...]:
    """Return what is equal for works whose steps can be done side by side."""
    moves = None if work.moves is None else tuple((place.start, place.stop) for place in work.moves)
    pulls = bool(work.proximal), work.anchor is not None, work.shift is not None
    return work.batch, id(work.optimizer), work.factor, work.proximal, pulls, moves


def not_plain(optimizer: Optimizer) -> str | None:
    """Return why an optimizer's step is not `w - lr (gradient + weight_decay w)`; None if it is."""
    if optimizer.plain is not None:
        return None
    if optimizer.name.lower() != "sgd":
        return f"the optimizer is `{optimizer.name}`, not `sgd`"
    extra = next(
        (name for name, value in optimizer.settings.items() if name not in ("lr", "weight_decay") and value), ""
    )
    return f"the optimizer has `{extra}`"


@dataclass(frozen=True)
class Motion:
    """How parameters move in a step: w <- shrink w + pull - lr gradient.

    Args:
        lr: the learning rate, its factor included.
        shrink: less than 1 for weight decay, a penalty on the parameters, or a pull to an anchor.
        pull: (n, d), or (1, d) if it is the same for all; None for nothing.
        moves: of the parameters (d,), the parts that move at all; None for all.
        l2: the penalty's factor.
    """

    lr: float
    shrink: float
    pull: Tensor | None
    moves: tuple[slice, ...] | None
    l2: float

    @classmethod
    def of(cls, works: Sequence[LocalWork], l2: float) -> Motion:
        """Return what is the same for works that are `alike`; `l2` is the objective's."""
        first = works[0]
        assert first.optimizer.plain is not None
        lr, decay = first.optimizer.plain
        lr *= first.factor
        pull = None
        if first.proximal or first.shift is not None:
            pull = torch.stack([_pull(work) for work in works]).mul_(lr)
        return cls(lr, 1 - lr * (l2 + decay + first.proximal), pull, first.moves, l2)

    @property
    def plain(self) -> bool:
        """Whether a step is `w - lr gradient`."""
        return self.shrink == 1 and self.pull is None

    def moving(self, part: Part) -> bool:
        """Return whether a parameter moves."""
        if self.moves is None:
            return True
        return any(place.start <= part.place.start and part.place.stop <= place.stop for place in self.moves)

    def divides(self, part: Part) -> bool:
        """Return whether some of a parameter moves, and some of it does not."""
        touched = any(place.start < part.place.stop and part.place.start < place.stop for place in self.moves or ())
        return touched and not self.moving(part)

    def add_pull(self, values: Tensor, part: Part) -> None:
        """Add the pull to the first clients' values (m, ...) of a parameter."""
        if self.pull is not None:
            values += part.of(self.pull[: len(values)])


def _pull(work: LocalWork) -> Tensor:
    anchor = work.start if work.anchor is None else work.anchor
    pull = anchor * work.proximal if work.proximal else torch.zeros_like(anchor)
    return pull if work.shift is None else pull.sub_(work.shift)
