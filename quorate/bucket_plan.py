"""Which candidate each bucket of gradients is exchanged by, so that messages hide behind the backward pass.

Buckets become ready one after another and share one link, on which their messages wait for one another; coding them
takes the time of the pass itself. From the least lossy everywhere, the bucket is made lossier that gains most by it,
until nothing gains; then buckets go back as far as no time is lost.
"""

from __future__ import annotations

import heapq
from collections.abc import Callable, Iterator
from dataclasses import dataclass

from quorate.adaptive import Cost, Link

Plan = tuple[int, ...]
"""Of each bucket, the place of its candidate from the least to the most lossy."""


@dataclass(frozen=True)
class Pass:
    """A training step of one worker, without what is exchanged in it.

    Args:
        ready: seconds within the backward pass after which each bucket is complete, in their order.
        backward: seconds that it takes.
        rest: of the step.
        costs: by bucket and candidate, each candidate's messages; None if it can't be used.
    """

    ready: tuple[float, ...]
    backward: float
    rest: float
    costs: tuple[tuple[Cost | None, ...], ...]

    def step(self, plan: Plan, link: Link) -> float:
        """Return the seconds of a whole step; inf if the plan names what can't be used."""
        late, queue = 0.0, list[tuple[float, int, int]]()
        chosen = [costs[place] for costs, place in zip(self.costs, plan, strict=True)]
        if None in chosen:
            return float("inf")
        costs = [cost for cost in chosen if cost is not None]
        for bucket, (ready, cost) in enumerate(zip(self.ready, costs, strict=True)):
            late += cost.encode
            queue.append((ready + late, bucket, 0))
        heapq.heapify(queue)
        free, end = 0.0, self.backward + late
        while queue:
            begins, bucket, meeting = heapq.heappop(queue)
            cost = costs[bucket]
            _, way = cost.travel(link)
            free = max(free, begins) + link.occupied(cost.sizes[meeting], way)
            through = free + (link.all_reduce if way == "backend" else link.all_gather)
            if meeting + 1 < len(cost.sizes):
                heapq.heappush(queue, (through, bucket, meeting + 1))
            end = max(end, through)
        return self.rest + end + sum(cost.decode for cost in costs)

    @property
    def compute(self) -> float:
        """The seconds of a step in which nothing is exchanged."""
        return self.rest + self.backward


def plan(given: Pass, link: Link, fraction: float = 0.05) -> Plan:
    """Plan a step that is at most `fraction` longer than computing alone, or than the fastest plan that is found.

    Returns:
        No plan of one candidate for all buckets is faster by more than that fraction.
    """
    starts = uniform(given)
    plans = [_quickened(start, given, link, fraction) for start in {starts[0], min(starts, key=_time(given, link))}]
    found = min(plans, key=_time(given, link))
    allowed = (1 + fraction) * max(given.compute, given.step(found, link))
    return _relaxed(found, given, link, allowed)


def uniform(given: Pass) -> list[Plan]:
    """Return the plans of one candidate for all buckets, from the least lossy."""
    return [(place,) * len(given.ready) for place in range(len(given.costs[0]))]


def lossiness(plan: Plan, given: Pass) -> float:
    """Return a number by which plans can be ordered: the mean place of what is said, by entries."""
    weights = [max(cost.bytes for cost in costs if cost is not None) for costs in given.costs]
    return sum(place * weight for place, weight in zip(plan, weights, strict=True)) / (sum(weights) or 1.0)


def _time(given: Pass, link: Link) -> Callable[[Plan], float]:
    return lambda plan: given.step(plan, link)


def _changes(plan: Plan, given: Pass, lossier: bool) -> Iterator[Plan]:
    """Yield the plans that differ in one bucket, the least lossy changes first."""
    for bucket, place in enumerate(plan):
        others = range(place + 1, len(given.costs[bucket])) if lossier else range(place)
        for other in others:
            yield (*plan[:bucket], other, *plan[bucket + 1 :])


def _quickened(plan: Plan, given: Pass, link: Link, fraction: float) -> Plan:
    taken = given.step(plan, link)
    while taken > (1 + fraction) * given.compute:
        best = min(_changes(plan, given, True), key=_time(given, link), default=plan)
        if given.step(best, link) >= taken:
            break
        plan, taken = best, given.step(best, link)
    return plan


def _relaxed(plan: Plan, given: Pass, link: Link, allowed: float) -> Plan:
    while True:
        better = [each for each in _changes(plan, given, False) if given.step(each, link) <= allowed]
        if not better:
            return plan
        plan = min(better, key=lambda each: lossiness(each, given))
