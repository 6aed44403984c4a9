"""Who has answered wrongly, told from what the checks of a code have measured.

An error of worker p shows in the checks as a multiple of one known column, that of p. Errors of different sizes are
found one size after the other, because large ones hide what is smaller than their rounding: once who is found is left
out, the checks are measured anew.

Source: Schmidt, "Multiple emitter location and signal parameter estimation", IEEE Transactions on Antennas and
Propagation 34(3), 1986 (MUSIC); Shan, Wax and Kailath, "On spatial smoothing for direction-of-arrival estimation of
coherent signals", IEEE Transactions on Acoustics, Speech, and Signal Processing 33(4), 1985 (liars that have agreed on
one error); Chen, Billings and Luo, "Orthogonal least squares methods", International Journal of Control 50(5), 1989.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from itertools import combinations
from math import comb

import torch
from torch import Tensor

_PARTS = (1e-13, 1e-6, 1e-3, 1e-9)
"""How much of the power may be left unexplained, in the order in which it is tried; double precision leaves 1e-13."""
_USUAL = 0.1  # of the floor, which all rounding errors together never pass: what most of them don't
_TRIALS = 20_000  # sets that are all looked at where the subspaces show the errors, but not in order
_AT_ONCE = 2_000
_BEAM = 64  # sets that are looked at together where no subspace shows the errors
_MOST = 24  # times that the checks are measured


@dataclass(frozen=True)
class Measured:
    """What q checks of m workers have measured.

    Args:
        power: (q, q), the sum over coordinates of the outer products of what the checks have measured.
        floor: of the sum of its diagonal: what rounding leaves.
        columns: (q, m), what an error of 1 of each worker measures.
        powers: (q, q), the change to checks of which row k is c_i z_i^-k.
        node: (m,), the z_i.
    """

    power: Tensor
    floor: float
    columns: Tensor
    powers: Tensor
    node: Tensor


def located(measure: Callable[[list[int]], Measured], workers: list[int], most: int) -> list[int] | None:
    """Return the workers that are left when at most so many are left out that the checks measure nothing else.

    Args:
        measure: measures the checks of these workers.
        workers: all that have answered.
        most: how many may be left out.

    Returns:
        In order; None if there are no such.
    """
    waiting, seen = [(tuple(workers), most)], set[tuple[int, ...]]()
    while waiting and len(seen) < _MOST:
        kept, most = waiting.pop()
        if kept in seen:
            continue
        seen.add(kept)
        found = measure(list(kept))
        if _total(found.power) <= found.floor:
            return list(kept)
        if most:
            for out in reversed(_suspected(found, most)):
                rest = tuple(worker for place, worker in enumerate(kept) if place not in out)
                waiting.append((rest, most - len(out)))
    return None


def _total(power: Tensor) -> float:
    return float(power.diagonal().real.sum())


def _suspected(found: Measured, most: int) -> list[tuple[int, ...]]:
    """Return sets of places, the likeliest first, that explain the power, or nearly all of it: the smallest that do."""
    power, columns = found.power.to(torch.complex128), found.columns.to(torch.complex128)
    change = found.powers.to(torch.complex128)
    smoothed = (change @ power @ change.mH).unfold(0, most + 1, 1).unfold(1, most + 1, 1).diagonal().sum(-1)
    steps = found.node ** -torch.arange(most + 1)[:, None]
    orders = _by_subspace(power, columns, most), _by_subspace(smoothed, steps, most)
    sets = [torch.stack([order[size - 1, :size] for order in orders]) for size in range(1, most + 1)]
    left = [_left(power, columns, each) for each in sets]
    proposals = []
    for floor, part in ((found.floor * _USUAL, _PARTS[0]), *((found.floor, part) for part in _PARTS)):
        most_left = max(floor, part * _total(power))
        for each, rest in zip(sets, left, strict=True):
            if float(rest.min()) <= most_left:
                proposals.append(tuple(sorted(each[int(rest.argmin())].tolist())))
                break
        else:
            proposals += _by_trial(power, columns, orders[-1][most - 1], most, most_left)
            proposals += _by_steps(power, columns, most, most_left)
    return list(dict.fromkeys(proposals))


def _by_subspace(power: Tensor, columns: Tensor, most: int) -> Tensor:
    """Return, for each size of the space of errors up to `most`, all places in the order in which they fit in it."""
    vectors = torch.linalg.eigh(power).eigenvectors.flip(1)
    outside = [(vectors[:, size:].mH @ columns).norm(dim=0) / columns.norm(dim=0) for size in range(1, most + 1)]
    return torch.stack(outside).argsort(dim=1, stable=True)


def _by_trial(power: Tensor, columns: Tensor, order: Tensor, size: int, most_left: float) -> list[tuple[int, ...]]:
    """Return that set, of all of a size among the first places of an order, that explains most, if it does enough."""
    first = size
    while first < len(order) and comb(first + 1, size) <= _TRIALS:
        first += 1
    sets = torch.tensor(list(combinations(order[:first].tolist(), size)))
    left = torch.cat([_left(power, columns, some) for some in sets.split(_AT_ONCE)])
    return [tuple(sorted(sets[int(left.argmin())].tolist()))] if float(left.min()) <= most_left else []


def _left(power: Tensor, columns: Tensor, sets: Tensor) -> Tensor:
    """Return the power (b,) that sets of places (b, k) do not explain."""
    rest = _rest(columns, sets)
    unexplained: Tensor = (rest @ power @ rest).diagonal(dim1=1, dim2=2).real.sum(1)
    return unexplained


def _rest(columns: Tensor, sets: Tensor) -> Tensor:
    """Return the projections (b, q, q) to what sets of places (b, k) do not explain."""
    span, _ = torch.linalg.qr(columns.T[sets].mT)
    rest: Tensor = torch.eye(len(columns), dtype=columns.dtype) - span @ span.mH
    return rest


def _by_steps(power: Tensor, columns: Tensor, most: int, most_left: float) -> list[tuple[int, ...]]:
    """Return a set that is found by adding one place at a time to the most promising sets, if one explains enough."""
    m = columns.shape[1]
    sets: list[tuple[int, ...]] = [()]
    for _ in range(most):
        taken = torch.tensor(sets, dtype=torch.int64).view(len(sets), -1)
        rest = _rest(columns, taken)
        unseen = rest @ columns
        gain = (unseen.conj() * (power @ unseen)).real.sum(1) / unseen.abs().square().sum(1).clamp_min(1e-24)
        gain.scatter_(1, taken, -torch.inf)
        left = (rest @ power @ rest).diagonal(dim1=1, dim2=2).real.sum(1)[:, None] - gain
        best = left.flatten().argsort(stable=True)[: 4 * _BEAM].tolist()
        sets = sorted({tuple(sorted((*sets[place // m], place % m))) for place in best})
        found = _left(power, columns, torch.tensor(sets))
        order = found.argsort(stable=True).tolist()
        if float(found[order[0]]) <= most_left:
            return [sets[order[0]]]
        sets = [sets[place] for place in order[:_BEAM]]
    return []
