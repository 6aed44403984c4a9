"""How far updates are from one another, and sums of updates: what rules that compare whole updates are made of.

Inner products of all pairs come from one pass over blocks of coordinates, each taken relative to a row in the midst of
the others, multiplied in the updates' own precision and added up in float64, always in the same order. A squared
distance is a difference of those; for pairs so close that little of it would be left, it is computed anew in float64,
relative to a row close by.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, replace
from math import frexp, inf, ldexp
from statistics import median

import torch
from torch import Tensor

from quorate.aggregators._blocks import Work, computed_in, in_blocks
from quorate.aggregators._screening import check, finite_rows, left_of

LENGTH = 1 << 13
"""Coordinates of a block that are multiplied at once."""
STRIPES = 16
"""Parts that the coordinates are divided into, whose sums are added at last; no more threads than that are of use."""
SAMPLE = 4, 1 << 9
"""Runs of coordinates, and how many in each, on which is seen which row lies in the midst of the others."""
NEAR = {torch.float32: 2.0**-6, torch.float64: 2.0**-20}
"""Squared distances that are less than this part of the two squared lengths are computed anew."""
SMALLEST = {torch.float32: 1e-30, torch.float64: 1e-280}
"""Mean squares below which squares may have vanished."""
FARTHEST = 1e140
"""How far a row may be, relative to the others, so that its square can be computed with."""
THINNEST = 1e-30
"""A weight below which float32 has fewer digits."""


@dataclass(frozen=True)
class Geometry:
    """How finite updates lie relative to one another.

    Args:
        rows: their places among all updates, m of them.
        f: how many of these may be arbitrary.
        gram: (m, m), float64 on the CPU: inner products of the updates relative to the one at `centre`.
        squares: (m, m), float64 on the CPU: squared distances.
        centre: a place in `rows`.
        dtype: what inner products were computed in, block by block.
        factors: (m,), float64: what each update was multiplied by; less than `unit` if it is out of all proportion.
        unit: what all others were multiplied by, a power of two.
    """

    rows: list[int]
    f: int
    gram: Tensor
    squares: Tensor
    centre: int
    dtype: torch.dtype
    factors: Tensor
    unit: float = 1.0

    @property
    def drawn_in(self) -> Tensor:
        """Which part (m,) of themselves updates stand for: 1, but for those out of all proportion."""
        return self.factors / self.unit

    @property
    def clipped(self) -> bool:
        """Whether there are updates out of all proportion."""
        return bool((self.factors < self.unit).any())


def geometry(rule: Callable[..., Tensor], updates: Tensor, weights: Tensor | None, f: int) -> Geometry:
    """Check what a robust rule was given, leave out rows that are not finite, and compare the others.

    Args:
        rule: that function itself; see `check`.
        updates: (n, d) of any float dtype.
        weights: (n,) or None: checked only.
        f: how many updates may be arbitrary.

    Raises:
        ValueError: if there are no updates, or the weights don't fit them.
        RunError: if the rule's theorem does not allow f, or more than f updates are not finite.
    """
    check(rule, updates, weights, f)
    updates = updates.detach()
    return refined(updates, compared(updates, f))


def compared(updates: Tensor, f: int) -> Geometry:
    """Return how the finite rows of updates (n, d) lie; small distances are not computed anew."""
    n, d = updates.shape
    wide = computed_in(updates)
    rows, centre = list(range(n)), midst(updates)
    gram = products(updates, rows, centre, wide)
    if not bool(gram.diagonal().isfinite().all()):
        rows, f = left_of(finite_rows(updates), n, f)
        places = torch.tensor(rows)
        gram = gram[places][:, places]
    whole = centre in rows and bool(gram.diagonal().isfinite().all())
    if whole and float(gram.diagonal().median()) >= d * SMALLEST[wide]:
        ones = torch.ones(len(rows), dtype=torch.float64)
        return Geometry(rows, f, gram, between(gram), rows.index(centre), wide, ones)
    return rescaled(updates, rows, f)


def rescaled(updates: Tensor, rows: list[int], f: int) -> Geometry:
    """Return how rows lie whose squares float32 or float64 can't hold: as float64, in a unit in which most are about 1.

    Distances are multiplied by the same power of two, which changes no comparison and no weight.
    """
    peaks = [max(map(abs, map(float, updates[row].aminmax()))) if updates.shape[1] else 0.0 for row in rows]
    typical = median(peaks) or max(peaks)
    unit = ldexp(1.0, -max(-1000, min(1000, frexp(typical)[1])))
    factors = torch.tensor([min(unit, FARTHEST / peak) if peak else unit for peak in peaks], dtype=torch.float64)
    centre = sorted(range(len(rows)), key=peaks.__getitem__)[(len(rows) - 1) // 2]
    gram = products(updates, rows, rows[centre], torch.float64, factors.tolist())
    found = Geometry(rows, f, gram, between(gram), centre, torch.float64, factors, unit)
    return found if found.clipped else around(updates, found, int(found.squares.median(dim=1).values.argmin()))


def around(updates: Tensor, found: Geometry, centre: int) -> Geometry:
    """Return inner products relative to another row; squares of distances stay as they were."""
    if centre == found.centre:
        return found
    factors = None if bool((found.factors == 1).all()) else found.factors.tolist()
    gram = products(updates, found.rows, found.rows[centre], found.dtype, factors)
    return replace(found, gram=gram, centre=centre)


def products(
    updates: Tensor, rows: Sequence[int], centre: int, dtype: torch.dtype, factors: Sequence[float] | None = None
) -> Tensor:
    """Return the inner products (m, m) of m rows of updates relative to one of them, in float64 on the CPU.

    The same bits whatever the number of threads.

    Args:
        updates: (n, d).
        rows: which of the n.
        centre: which of the n is subtracted.
        dtype: what blocks are multiplied in.
        factors: (m,), what each row is multiplied by before.
    """
    m, d = len(rows), updates.shape[1]
    stripe = max(1, -(-d // (STRIPES * LENGTH))) * LENGTH
    sums: dict[int, Tensor] = {}
    at_once = list(rows) == list(range(len(updates))) and updates.dtype == dtype and factors is None

    def work(stripes: Sequence[slice]) -> None:
        held = torch.empty(m, min(LENGTH, d), dtype=dtype, device=updates.device)
        for each in stripes:
            total = torch.zeros(m, m, dtype=torch.float64, device=updates.device)
            for first in range(each.start, each.stop, LENGTH):
                block = updates[:, first : min(first + LENGTH, each.stop)]
                less = held[:, : block.shape[1]]
                if at_once:
                    torch.sub(block, block[centre], out=less)
                else:
                    for place, row in enumerate(rows):
                        less[place].copy_(block[row]).mul_(1.0 if factors is None else factors[place])
                    less -= less[rows.index(centre)].clone()
                total += less @ less.T
            sums[each.start] = total.cpu()

    in_blocks(updates, one_thread_each(work), stripe)
    total = torch.zeros(m, m, dtype=torch.float64)
    for start in sorted(sums):
        total += sums[start]
    return (total + total.T) / 2


@contextmanager
def one_thread(threads: int | None = None) -> Iterator[None]:
    """Let torch use one thread within the block, for products of matrices, whose bits depend on the number.

    Args:
        threads: how many it may use afterwards; None: as many as before.
    """
    before = torch.get_num_threads()  # without which a new thread would take over another's number later on
    torch.set_num_threads(1)
    try:
        yield
    finally:
        torch.set_num_threads(before if threads is None else threads)


def one_thread_each(work: Work) -> Work:
    """Return work of which every thread that is given some uses no others; see `in_blocks`."""
    threads = torch.get_num_threads()  # not each thread's own, for new threads begin with what another has set last

    def alone(blocks: Sequence[slice]) -> None:
        with one_thread(threads):
            work(blocks)

    return alone


def between(gram: Tensor) -> Tensor:
    """Return squared distances (m, m) from inner products (m, m)."""
    lengths = gram.diagonal()
    return (lengths[:, None] + lengths - 2 * gram).clamp_min_(0).fill_diagonal_(0)


def refined(updates: Tensor, found: Geometry) -> Geometry:
    """Return distances of which those between rows close to one another are computed anew, in float64.

    Rows that are linked by such distances are taken relative to one of them, which leaves fewer rows each time.
    """
    squares, todo = found.squares.clone(), [(list(range(len(found.rows))), found.gram, NEAR[computed_in(updates)])]
    while todo and not found.clipped:
        members, gram, near = todo.pop()
        lengths = gram.diagonal()
        close = between(gram) < near * (lengths[:, None] + lengths)
        for group in linked(close.tolist()):
            some = torch.tensor([members[place] for place in group])
            among, rows = squares[some][:, some], [found.rows[place] for place in some.tolist()]
            midmost = rows[int(among.sum(dim=1).argmin())]
            anew = products(updates, rows, midmost, torch.float64, [found.unit] * len(rows))
            squares[some[:, None], some] = torch.where(close[group][:, group], between(anew), among)
            todo.append((some.tolist(), anew, NEAR[torch.float64]))
    return replace(found, squares=squares)


def linked(close: Sequence[Sequence[bool]]) -> list[list[int]]:
    """Return the groups of two or more places that are joined by pairs which are close."""
    left, groups = set(range(len(close))), []
    while left:
        group = [left.pop()]
        for place in group:
            near = [other for other in left if close[place][other]]
            left.difference_update(near)
            group += near
        if len(group) > 1:
            groups.append(sorted(group))
    return groups


def midst(updates: Tensor) -> int:
    """Return a row that is not far from most others, judged on a sample of coordinates."""
    runs, length = SAMPLE
    d = updates.shape[1]
    starts = [0] if d <= runs * length else [d // runs * run for run in range(runs)]
    width = d if d <= runs * length else length
    sample = torch.cat([updates[:, start : start + width] for start in starts], dim=1).double()
    with one_thread():
        squares = between(sample @ sample.T)
    return int(squares.nan_to_num(nan=inf).median(dim=1).values.argmin())


def combined(updates: Tensor, rows: Sequence[int], weights: Sequence[float]) -> Tensor:
    """Return the sum (d,) of finite rows of updates (n, d) times weights that are at most 1 each, of their dtype.

    The same bits whatever the number of threads.
    """
    used = [(row, weight) for row, weight in zip(rows, weights, strict=True) if weight]
    wide = computed_in(updates)
    dtype = wide if all(weight >= THINNEST for _, weight in used) else torch.float64
    updates = updates.detach()
    result = updates.new_zeros(updates.shape[1])
    factors = torch.zeros(len(updates), dtype=dtype, device=updates.device)
    for row, weight in used:
        factors[row] = weight
    at_once = len(rows) == len(updates) and dtype == updates.dtype and updates.stride(1) == 1

    def work(blocks: Sequence[slice]) -> None:
        for block in blocks:
            if at_once:
                torch.mv(updates[:, block].T, factors, out=result[block])
                continue
            total = torch.zeros_like(result[block], dtype=dtype)
            for row, weight in used:
                total.add_(updates[row, block].to(dtype), alpha=weight)
            result[block] = total

    in_blocks(updates, one_thread_each(work))
    return result


def mean_of(updates: Tensor, rows: Sequence[int], chosen: Sequence[int]) -> Tensor:
    """Return the mean (d,) of chosen places of `rows`, the finite rows of updates (n, d)."""
    share, places = 1 / len(chosen), set(chosen)
    return combined(updates, rows, [share if place in places else 0.0 for place in range(len(rows))])
