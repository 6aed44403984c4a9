"""What the buckets of an `Overlap` are best exchanged by, found out while the model trains.

The link and the coding of each candidate are measured before the first step, how gradients come in the first ones. The
plans that should be quickest are then tried in turn, by the wall clock, and the least lossy of the quickest is kept.
"""

from __future__ import annotations

import statistics
import time
from collections.abc import Sequence
from dataclasses import replace
from typing import get_args

import torch
from torch import Tensor

from quorate import bucket_plan
from quorate.adaptive import Cost, Link, Way
from quorate.bucket_plan import Pass, Plan
from quorate.candidates import LADDER, codec_of, cost_of
from quorate.collectives.backend import backend
from quorate.collectives.direct import direct
from quorate.engines.link import measure, told
from quorate.engines.overlap import Bucket, Overlap
from quorate.errors import QuorateError
from quorate.exchange import Exchange
from quorate.rand import Rand
from quorate.report import units

_PLANS = 4  # that are tried at most
_HOPEFUL = 3.0  # times the quickest plan's predicted time, up to which another one is tried
_WAYS: tuple[Way, ...] = get_args(Way)


class Tuning:
    """Replaces the exchanges of an `Overlap` by those of the least lossy plan that is quick.

    `step()` stands after every `optimizer.step()`, on all workers; it takes next to no time, and does nothing more when
    the choice has been made, after about `warm_up + 4 * trial` steps. What a codec has left unsaid is dropped when its
    bucket goes over to one that remembers nothing, some times while plans are tried.

    Args:
        overlap: whose aggregator and layout of buckets are kept.
        candidates: from the least to the most lossy; see `quorate.candidates`.
        fraction: by which a step may be longer than with the quickest plan, or than computing alone.
        warm_up: steps from which the times of the backward pass are taken; the first one does not count.
        trial: steps that each plan is tried for, half of them after all others have been tried; two do not count.
        link: measured if not given.

    Raises:
        QuorateError: if there is no such candidate; PeerError if a worker does not take part.
    """

    def __init__(
        self,
        overlap: Overlap,
        candidates: Sequence[str] = LADDER,
        *,
        fraction: float = 0.05,
        warm_up: int = 4,
        trial: int = 12,
        link: Link | None = None,
    ) -> None:
        self._overlap, self._fraction = overlap, fraction
        self._warm_up, self._trial = max(2, warm_up), max(6, trial) // 2
        self.candidates = tuple(candidates)
        self.link = measure(overlap.node) if link is None else link
        self._base = [bucket.exchange for bucket in overlap.buckets]
        self._costs = tuple(self._of_bucket(bucket) for bucket in overlap.buckets)
        self._steps = 0
        self._times: list[list[float]] = []
        self._first: list[tuple[tuple[float, ...], float, float]] = []
        self._plans: list[Plan] = []
        self._taken: list[float] = []
        self.plan: Plan = ()
        """The place of each bucket's candidate; while plans are tried, of the one that is."""
        self.settled = False
        waiting = Pass((0.0,) * len(self._costs), 0.0, 0.0, self._costs)
        self._use(self._agreed([bucket_plan.plan(waiting, self.link, fraction)])[0])
        self._began = time.perf_counter()

    def step(self) -> None:
        """Take note that a step is done; all workers change their exchanges between the same steps."""
        if self.settled:
            return
        now = time.perf_counter()
        self._steps += 1
        if self._plans:
            self._tried(now - self._began)
        else:
            self._warmed(now - self._began)
        self._began = time.perf_counter()

    def _of_bucket(self, bucket: Bucket) -> tuple[Cost | None, ...]:
        """Measure what the candidates' messages of a bucket cost; None of those that can't say it."""
        node, costs = self._overlap.node, list[Cost | None]()
        drawn = torch.randn(len(bucket.flat), generator=Rand(0).fold("tuning").generator()).to(bucket.flat)
        for name in self.candidates:
            codec = codec_of(name)
            try:
                said = replace(bucket.exchange, codec=codec, collective=backend).laid_out(bucket.layout)
                summed = said.sums_in_flight
                cost = cost_of(said.codec, drawn, node.size, summed=summed)
                costs.append(cost if cost.travel(self.link)[0] < float("inf") else None)
            except QuorateError:
                costs.append(None)
        return tuple(costs)

    def _warmed(self, seconds: float) -> None:
        """Note how gradients come; after the last step of this kind, plan."""
        took = self._overlap.seconds
        if self._steps > 1:
            self._first.append((took.ready, took.backward, seconds - took.backward - took.waited))
        if self._steps < self._warm_up:
            return
        backward = statistics.median(each for _, each, _ in self._first)
        rest = statistics.median(each for _, _, each in self._first)
        ready = [statistics.median(each[bucket] for each, _, _ in self._first) for bucket in range(len(self._costs))]
        spent = 0.0
        for bucket, place in enumerate(self.plan):  # what was spent on coding is no part of the pass itself
            cost = self._costs[bucket][place]
            ready[bucket] = max(0.0, ready[bucket] - spent)
            spent += cost.encode if cost is not None else 0.0
        given = Pass(tuple(ready), max(backward - spent, ready[-1]), max(rest, 0.0), self._costs)
        self._plans = self._agreed(self._hopeful(given))
        self._times = [[] for _ in self._plans]
        self._steps = 0
        self._use(self._plans[0])

    def _hopeful(self, given: Pass) -> list[Plan]:
        """Return the plans to be tried: the planned one, the least lossy, and others, where they may be as quick."""
        planned, fixed = bucket_plan.plan(given, self.link, self._fraction), bucket_plan.uniform(given)
        taken = {each: given.step(each, self.link) for each in [planned, *fixed]}
        limit = _HOPEFUL * min(taken.values())
        others = [fixed[0], *sorted(fixed[1:], key=taken.__getitem__)]
        return [planned, *(each for each in others if each != planned and taken[each] <= limit)][:_PLANS]

    def _tried(self, seconds: float) -> None:
        """Note a step's time; go on to the next plan, and decide when each has been tried twice."""
        turn, within = divmod(self._steps - 1, self._trial)
        if within:  # the first step after a change does not count
            self._times[turn % len(self._plans)].append(seconds)
        turns = self._steps // self._trial
        if self._steps % self._trial:
            return
        if turns < 2 * len(self._plans):
            self._use(self._plans[turns % len(self._plans)])
            return
        self._taken = [statistics.median(each) for each in self._times]
        quick = [
            plan
            for plan, taken in zip(self._plans, self._taken, strict=True)
            if taken <= (1 + self._fraction) * min(self._taken)
        ]
        weighed = Pass((0.0,) * len(self._costs), 0.0, 0.0, self._costs)
        self._use(self._agreed([min(quick, key=lambda plan: bucket_plan.lossiness(plan, weighed))])[0])
        self.settled = True

    def _agreed(self, plans: Sequence[Plan]) -> list[Plan]:
        """Return rank 0's plans on all workers."""
        numbers = torch.full((_PLANS, len(self._costs)), -1)
        for row, plan in zip(numbers, plans, strict=False):
            row.copy_(torch.tensor(plan))
        heard: Tensor = told(self._overlap.node, numbers)[0]
        return [tuple(row) for row in heard.tolist() if row[0] >= 0]

    def _use(self, plan: Plan) -> None:
        for index, place in enumerate(plan):
            if not self.plan or self.plan[index] != place:
                self._overlap.use(index, self._exchange(index, place))
        self.plan = plan

    def _exchange(self, index: int, place: int) -> Exchange:
        cost = self._costs[index][place]
        assert cost is not None
        collective = direct if cost.travel(self.link)[1] == "direct" else backend
        return replace(self._base[index], codec=codec_of(self.candidates[place]), collective=collective)

    def __str__(self) -> str:
        """Return the measured link, and what each tried plan took on this worker."""
        link = self.link
        lines = [
            f"link: {units.size(link.rate)}/s; an all-reduce of a few bytes takes {units.seconds(link.all_reduce)},"
            f" a gather {units.seconds(link.all_gather)}"
        ]
        for plan, taken in zip(self._plans, self._taken, strict=False):
            lines.append(f"{self._named(plan)}: {units.seconds(taken)} a step{', chosen' * (plan == self.plan)}")
        return "\n".join(lines if self._taken else [*lines, f"{self._named(self.plan)}, not settled yet"])

    def _named(self, plan: Plan) -> str:
        names = [self.candidates[place] for place in plan]
        return names[0] if len(set(names)) == 1 else ", ".join(names)


def tune(overlap: Overlap, candidates: Sequence[str] = LADDER, *, fraction: float = 0.05) -> Tuning:
    """Begin to tune an `Overlap`; call `step()` of what is returned after every `optimizer.step()`. See `Tuning`."""
    return Tuning(overlap, candidates, fraction=fraction)
