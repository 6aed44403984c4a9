"""Order statistics of every coordinate: a sorting network whose lanes are whole rows.

A comparator of two lanes is one minimum and one maximum of two rows; nothing is gathered or transposed. Of the network
only those comparators are kept on which the wanted ranks depend, and of these only the wanted half.

Source: Parberry, "The pairwise sorting network", Parallel Processing Letters 2(2-3), 1992; why it suits selection:
Codish and Zazon-Ivry, "Pairwise cardinality networks", LPAR 2010.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from functools import lru_cache
from typing import NamedTuple

import torch
from torch import Tensor

from quorate.aggregators._blocks import BLOCK, computed_in, in_blocks

LANES = 128
"""The most rows for which a network is used; more are sorted."""

Combine = Callable[[Sequence[Tensor], Tensor], None]
Lanes = Sequence[int]


class Step(NamedTuple):
    """The larger, or the smaller, of what two places hold goes to a place."""

    larger: bool
    one: int
    other: int
    to: int


class Plan(NamedTuple):
    """How the wanted ranks of n rows are found.

    Args:
        steps: what is done; of the places, the first n are the rows, which are only read.
        ranks: the place that holds each rank at last, of those that are wanted.
        spare: how many places there are besides the rows.
    """

    steps: tuple[Step, ...]
    ranks: tuple[int, ...]
    spare: int


def by_rank(updates: Tensor, rows: Lanes, alone: frozenset[int], together: frozenset[int], combine: Combine) -> Tensor:
    """Combine, in every coordinate, the smallest, second smallest ... of some rows.

    Args:
        updates: (n, d), of any float dtype; finite in these rows.
        alone: ranks, from 0, that are wanted each.
        together: ranks of which only the set is wanted: which of them stands where is left open.
        combine: is given the values (b,) of all ranks, of which only the wanted ones hold what they should, and the
            place (b,) for its result. It writes to nothing else.

    Returns:
        (d,), of the updates' dtype; the bits of a coordinate don't depend on the others.
    """
    updates = updates.detach()
    result, wide = updates.new_empty(updates.shape[1]), computed_in(updates)
    plan = planned(len(rows), alone, together)

    def work(blocks: Sequence[slice]) -> None:
        most = max((block.stop - block.start for block in blocks), default=0)
        spare = updates.new_empty(plan.spare + 1, most, dtype=wide)
        for block in blocks:
            columns = updates[:, block]
            *places, out = spare[:, : columns.shape[1]].unbind(0)
            lanes = columns.unbind(0)
            values = [lanes[row].to(wide) for row in rows] + places
            for larger, one, other, to in plan.steps:
                (torch.maximum if larger else torch.minimum)(values[one], values[other], out=values[to])
            combine([values[place] for place in plan.ranks], out)
            result[block] = out

    def work_by_sorting(blocks: Sequence[slice]) -> None:
        for block in blocks:
            columns = updates[:, block]
            chosen = torch.stack([columns[row] for row in rows]).to(wide)
            out = torch.empty_like(chosen[0])
            combine(chosen.sort(dim=0).values.unbind(0), out)
            result[block] = out

    if len(rows) <= LANES:
        in_blocks(updates, work)
    else:
        in_blocks(updates, work_by_sorting, max(1, BLOCK // len(rows)))
    return result


def average(values: Sequence[Tensor], out: Tensor) -> None:
    """Write the mean of values (b,) to out, summed in their order; it overflows for no finite ones."""
    share = 1 / len(values)
    torch.mul(values[0], share, out=out)
    for value in values[1:]:
        out.add_(value, alpha=share)


@lru_cache(maxsize=64)
def planned(n: int, alone: frozenset[int], together: frozenset[int]) -> Plan:
    """Return how to find ranks of n rows; more than `LANES` are sorted, which needs no steps."""
    if n > LANES:
        return Plan((), tuple(range(n)), 0)
    place, free, steps, top = list(range(n)), list[int](), list[Step](), n

    def fresh() -> int:
        nonlocal top
        if free:
            return free.pop()
        top += 1
        return top - 1

    for low, high, wants_low, wants_high in pruned(network(range(n)), alone, together):
        one, other = place[low], place[high]
        held = [each for each in (one, other) if each >= n]
        if wants_low:
            place[low] = fresh() if wants_high or not held else held.pop()
            steps.append(Step(False, one, other, place[low]))
        if wants_high:
            place[high] = held.pop() if held else fresh()
            steps.append(Step(True, one, other, place[high]))
        free += held
    return Plan(tuple(steps), tuple(place), top - n)


def pruned(
    comparators: Sequence[tuple[int, int]], alone: frozenset[int], together: frozenset[int]
) -> list[tuple[int, int, bool, bool]]:
    """Return those comparators on which wanted ranks depend, and which of their two results are wanted.

    A comparator of two lanes that are both not wanted afterwards, or both wanted only together, changes nothing.
    """
    kept = []
    for low, high in reversed(comparators):
        both = {low, high}
        if both & alone or len(both & together) == 1:
            wanted = both & (alone | together)
            kept.append((low, high, low in wanted, high in wanted))
            alone, together = alone | both, together - both
    return kept[::-1]


def network(lanes: Lanes) -> list[tuple[int, int]]:
    """Return the comparators (lane of the smaller, lane of the larger) that sort lanes, depth first."""
    if len(lanes) < 2:
        return []
    lows, highs = lanes[::2], lanes[1::2]
    comparators = [*zip(lows, highs, strict=False), *network(lows), *network(highs)]
    reach = 1 << (len(lows) - 1).bit_length() >> 1
    while reach:
        comparators += zip(highs, lows[reach:], strict=False)
        reach >>= 1
    return comparators
