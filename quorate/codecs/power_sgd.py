"""Power iteration: each matrix of an update as the product of two thin ones, which are summed on their way.

A matrix M (n, m) is said as P = M Q, of shape (n, rank), and, when the sum of all workers' P has been made orthonormal,
as Q = M^T P, of shape (m, rank), from which the next update goes on. That takes two meetings, however many matrices
there are: one of all P and of what is too small to gain by it, one of all Q. With `alternate` it takes one.

Source: Vogels, Karimireddy and Jaggi, "PowerSGD: practical low-rank gradient compression for distributed optimization",
NeurIPS 2019, algorithms 1 and 2. `alternate`: Zhang et al., "Evaluation and optimization of gradient compression for
distributed deep learning", ICDCS 2023, from memory. Biased; it keeps its own residual.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from functools import cached_property
from typing import Annotated, NamedTuple, Self

import torch
from pydantic import Field
from torch import Tensor

from quorate.codecs import State
from quorate.codecs._together import Together
from quorate.collectives import Collective
from quorate.errors import RecipeError
from quorate.flat import Layout
from quorate.node import Node
from quorate.rand import At, Rand
from quorate.trees import leaf
from quorate.wire import Message


class _Stack(NamedTuple):
    """Matrices of one shape, evenly spaced in an update of shape (d,)."""

    number: int
    rows: int
    columns: int
    offset: int
    spacing: int

    def of(self, x: Tensor) -> Tensor:
        """Return a view of shape (number, rows, columns)."""
        shape, strides = (self.number, self.rows, self.columns), (self.spacing, self.columns, 1)
        return x.as_strided(shape, strides, x.storage_offset() + self.offset)

    def side(self, right: bool) -> int:
        """Return the length of the right factor's columns, or of the left one's."""
        return self.columns if right else self.rows


class _Plan(NamedTuple):
    """What of an update is said by factors, and which entries are said as they are."""

    stacks: tuple[_Stack, ...]
    whole: tuple[slice, ...]

    def length(self, right: bool) -> int:
        """Return how many rows all right factors, or all left ones, have together."""
        return sum(stack.number * stack.side(right) for stack in self.stacks)

    def said_whole(self, x: Tensor) -> list[Tensor]:
        """Return views of the entries that are said as they are."""
        return [x[each] for each in self.whole]

    def factors(self, flat: Tensor, right: bool, rank: int) -> list[Tensor]:
        """Return views (number, rank, rows or columns) of the factors that begin a flat tensor.

        So they are the left operands of products with matrices that lie in rows: several times as fast on a CPU.
        """
        views, offset = [], 0
        for stack in self.stacks:
            numel = stack.number * stack.side(right) * rank
            views.append(flat[offset : offset + numel].view(stack.number, rank, stack.side(right)))
            offset += numel
        return views


@dataclass(frozen=True)
class PowerSgd(Together):
    """Say matrices by factors of low rank; smaller parameters are said whole.

    Where nothing is known of the parameters, the update is folded into one matrix, as square as can be. All workers
    whose machines compute alike end with the same bits.

    Args:
        rank: columns of each factor.
        warm_start: begin where the last update ended, instead of at random.
        error_feedback: add to each update what the ones before have left unsaid.
        alternate: meet once an update: with Q fixed, which says P, in even steps, and the other way round in odd ones.

    Raises:
        RecipeError: if factors alternate, but are not kept.
    """

    rank: Annotated[int, Field(ge=1)] = 1
    warm_start: bool = True
    error_feedback: bool = True
    alternate: bool = False

    def __post_init__(self) -> None:
        if self.alternate and not self.warm_start:
            raise RecipeError("power_sgd can't alternate between factors that it does not keep", "warm_start = true")

    @property
    def _settings(self) -> tuple[int, bool, bool, bool]:
        return self.rank, self.warm_start, self.error_feedback, self.alternate

    def bound(self, d: int) -> float:
        """Return 1: what is said is a projection of what is to be said."""
        return 1.0

    def laid_out(self, layout: Layout) -> Self:
        """Take the parameters' own shapes."""
        return _LaidOut(*self._settings, layout=layout)  # type: ignore[return-value]

    def plan(self, d: int) -> _Plan:
        """Fold an update of shape (d,) into a matrix."""
        rows = math.isqrt(d)
        return _planned([(torch.Size((rows, d // rows)), 0), (torch.Size((d % rows,)), d - d % rows)], self.rank)

    def init(self, like: Tensor) -> State:
        """Begin without a residual, and with the same random factors on all workers."""
        if not len(like):
            return {}
        state: dict[str, Tensor] = {}
        if self.error_feedback:
            state["residual"] = like.new_zeros(len(like))
        if self.warm_start:
            state["q"] = self._random(like, True, Rand(0))
        if self.alternate:
            state["p"] = self._random(like, False, Rand(0))
        return state

    def emits(self, like: Tensor) -> Message:
        """Declare what is said in the first meeting, and in the second; if factors alternate, in the longer one."""
        if not len(like):
            return (like,)
        plan = self.plan(len(like))
        left, right = (self.rank * plan.length(each) for each in (False, True))
        whole = sum(len(each) for each in plan.said_whole(like))
        if self.alternate:
            return (like.new_empty(max(left, right) + whole),)
        return like.new_empty(left + whole), like.new_empty(right)

    async def meet(
        self, node: Node, update: Tensor, state: State, at: At, share: float, collective: Collective
    ) -> tuple[Tensor, State]:
        """See `quorate.exchange.Meeting`.

        Passes over d entries: the residual is added to, both factors are formed from it and their product is taken off,
        while the second message is on its way; the sum is written.
        """
        if not len(update):
            return update, state
        plan, update = self.plan(len(update)), update.contiguous()
        x, share = (leaf(state, "residual").add_(update, alpha=share), 1.0) if self.error_feedback else (update, share)
        right = self.alternate and at.step % 2 == 0
        if self.alternate:
            bases = self._bases(plan, leaf(state, "q" if right else "p"), right)
            message = _projected(plan, x, bases, right, plan.said_whole(x))
        else:
            start = leaf(state, "q") if self.warm_start else self._random(update, True, at.shared)
            first = _projected(plan, x, plan.factors(start, True, self.rank), True, plan.said_whole(x))
            rest = await collective(node, first, share)
            bases = self._bases(plan, rest, False)
            message = _projected(plan, x, bases, right)
        own = plan.factors(message.clone(), not right, self.rank) if self.error_feedback else []
        summed = collective(node, message, share) if len(message) else None
        if self.error_feedback:
            for view, left_factor, right_factor in _products(plan, x, bases, own, right):
                view.baddbmm_(left_factor.mT, right_factor, alpha=-1)
            for entries in plan.said_whole(x):
                entries.zero_()
        heard = message if summed is None else await summed
        factors = plan.factors(heard, not right, self.rank)
        for view, left_factor, right_factor in _products(plan, update, bases, factors, right):
            view.baddbmm_(left_factor.mT, right_factor, beta=0)
        if self.alternate:
            rest = heard
        _spread(rest[self.rank * plan.length(self.alternate and not right) :], plan.said_whole(update))
        after = {"residual": x} if self.error_feedback else {}
        if self.alternate:
            new, kept = ("p", "q") if right else ("q", "p")
            return update, {**after, kept: leaf(state, kept), new: _normal(factors, x)}
        return update, {**after, "q": _normal(factors, x)} if self.warm_start else after

    def _random(self, like: Tensor, right: bool, rand: Rand) -> Tensor:
        """Return flat factors that are the same on all workers and devices."""
        length = self.rank * self.plan(len(like)).length(right)
        return torch.randn(length, generator=rand.fold("power_sgd", int(right)).generator()).to(like)

    def _bases(self, plan: _Plan, flat: Tensor, right: bool) -> list[Tensor]:
        return [_orthonormal(each) for each in plan.factors(flat, right, self.rank)]


@dataclass(frozen=True, repr=False)
class _LaidOut(PowerSgd):
    """PowerSGD of an update whose matrices are known."""

    layout: Layout = field(kw_only=True, repr=False)

    def __repr__(self) -> str:
        return repr(PowerSgd(*self._settings))

    def plan(self, d: int) -> _Plan:
        """Take the parameters as matrices (first dimension, all others), if the update is all of them."""
        return self._of_layout if d == self.layout.numel else super().plan(d)

    @cached_property
    def _of_layout(self) -> _Plan:
        return _planned([(shape, offset) for _, shape, offset in self.layout.places], self.rank)


def _planned(places: Sequence[tuple[torch.Size, int]], rank: int) -> _Plan:
    """Sort tensors of (shape, offset) into stacks of matrices that gain by factors of a rank, and other entries."""
    matrices: dict[tuple[int, int], list[int]] = {}
    whole: list[slice] = []
    for shape, offset in places:
        rows, columns = (shape[0], shape[1:].numel()) if len(shape) > 1 else (1, shape.numel())
        if rank * (rows + columns) < rows * columns:
            matrices.setdefault((rows, columns), []).append(offset)
        elif whole and whole[-1].stop == offset:
            whole[-1] = slice(whole[-1].start, offset + rows * columns)
        elif rows * columns:
            whole.append(slice(offset, offset + rows * columns))
    stacks = [_Stack(n, *shape, *even) for shape, offsets in matrices.items() for n, *even in _evenly_spaced(offsets)]
    return _Plan(tuple(stacks), tuple(whole))


def _evenly_spaced(offsets: Sequence[int]) -> Iterator[tuple[int, int, int]]:
    """Yield (count, first, spacing) of runs that make up ascending offsets."""
    while offsets:
        spacing = offsets[1] - offsets[0] if len(offsets) > 1 else 0
        count = 1
        while count < len(offsets) and offsets[count] - offsets[count - 1] == spacing:
            count += 1
        yield count, offsets[0], spacing
        offsets = offsets[count:]


def _projected(plan: _Plan, x: Tensor, bases: Sequence[Tensor], right: bool, whole: Sequence[Tensor] = ()) -> Tensor:
    """Return one flat message of M B^T, or, if the bases are left factors, B M, and of further tensors."""
    rank = bases[0].shape[1] if bases else 0
    length = rank * plan.length(not right)
    message = x.new_empty(length + sum(len(each) for each in whole))
    for stack, base, out in zip(plan.stacks, bases, plan.factors(message, not right, rank), strict=True):
        matrices = stack.of(x)
        torch.bmm(base, matrices.mT if right else matrices, out=out)
    if whole:
        torch.cat(list(whole), out=message[length:])
    return message


def _products(
    plan: _Plan, x: Tensor, bases: Sequence[Tensor], factors: Sequence[Tensor], right: bool
) -> Iterator[tuple[Tensor, Tensor, Tensor]]:
    """Yield (matrices in x, their left factors, their right factors)."""
    for stack, base, factor in zip(plan.stacks, bases, factors, strict=True):
        yield (stack.of(x), factor, base) if right else (stack.of(x), base, factor)


def _spread(flat: Tensor, entries: Sequence[Tensor]) -> None:
    for view, piece in zip(entries, flat.split([len(each) for each in entries]), strict=True):
        view.copy_(piece)


def _orthonormal(factors: Tensor) -> Tensor:
    """Return orthonormal rows that span those of (number, rank, n), where they have full rank."""
    precise = factors if factors.dtype == torch.float64 else factors.float()
    columns: Tensor = torch.linalg.qr(precise.mT).Q
    return columns.mT.to(factors.dtype)


def _normal(factors: Sequence[Tensor], like: Tensor) -> Tensor:
    """Return flat factors scaled to length 1, so that none fades away with the gradients."""
    scaled = [
        each / torch.linalg.vector_norm(each, dim=(1, 2), keepdim=True).clamp_min(torch.finfo(each.dtype).tiny)
        for each in factors
    ]
    return torch.cat([like.new_empty(0), *[each.reshape(-1) for each in scaled]])


EXAMPLES = (PowerSgd(), PowerSgd(rank=2, alternate=True), PowerSgd(warm_start=False, error_feedback=False))
