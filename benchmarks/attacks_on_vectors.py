"""How far does each attack get with each rule?

First, one meeting: n = 45 workers, of which f = 10 lie. Honest updates are one common Gaussian vector and as much of
each worker's own; told is the distance of what the rule makes of them from the honest mean, over the length of that
mean, median of some draws. Where honest workers differ so much, an attack has room; 0 is the best, and what a rule
loses by itself is in the first line.

Then, a run: softmax regression on scikit-learn's digits, 20 workers, of which 4 lie, whole-batch gradients, every rule
against every attack; told is the test accuracy in percent. Workers' data differ (Dirichlet 0.3); with `--iid` they are
alike. For backdoors, the share of triggered test images that are taken for the target is told in parentheses.

The hostile know all honest updates, and the rule. Tables are printed as Markdown. About 5 minutes, `--quick` one.
"""

from __future__ import annotations

import argparse
import statistics
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from functools import partial
from math import inf, isfinite, sqrt
from typing import Any

import torch
from figures import machine
from torch import Tensor

from quorate import parts
from quorate.aggregators import Aggregator, most_of, what_it_is_given
from quorate.attacks import Attack, Seen
from quorate.attacks.alie import Alie
from quorate.attacks.backdoor import Backdoor
from quorate.attacks.ipm import Ipm
from quorate.combination import PreAggregated
from quorate.errors import QuorateError
from quorate.partitions.dirichlet import dirichlet
from quorate.partitions.iid import iid
from quorate.rand import At, Rand
from quorate.tasks import Data
from quorate.tasks.digits import digits

N, F, D = 45, 10, 2_000
WORKERS, LIARS, LABELS = 20, 4, 10
LR = 1.0
NO_RULES = ("majority_vote",)  # they combine signs, not updates
BEFORE = (("nearest_neighbor_mixing", "trimmed_mean"), ("bucketing", "trimmed_mean"))
ATTACKS: dict[str, Attack | None] = {"none": None}
ATTACKS |= {name: parts.build("attack", {"name": name}) for name in sorted(parts.names("attack"))}
ATTACKS |= {"alie, z = 1.5": Alie(1.5), "ipm, epsilon = 1": Ipm(1.0)}


def rules(n: int, f: int, radius: float) -> dict[str, Aggregator]:
    """Return every aggregator that takes n updates of which f lie, with the usual settings."""
    told = {"f": f, "radius": radius, "size": 2}

    def filled(kind: str, name: str, **other: Any) -> Any:
        part = parts.find(kind, name)
        given = what_it_is_given(part)
        return partial(
            part, **{key: (told | other)[key] for key in parts.settings(part) if key in told and key not in given}
        )

    found = {name: filled("aggregator", name) for name in parts.names("aggregator") if name not in NO_RULES}
    found = {name: rule for name, rule in found.items() if name == "mean" or _takes(rule, n, f)}
    for before, name in BEFORE:
        if before in parts.names("pre_aggregator") and name in found:
            halved = min(f, (-(-n // 2) - 1) // 2) if before == "bucketing" else f
            after = filled("aggregator", name, f=halved)
            found[f"{before} + {name}"] = PreAggregated((filled("pre_aggregator", before),), after)
    return {"mean": found.pop("mean"), **found}


def _takes(rule: Aggregator, n: int, f: int) -> bool:
    """Whether a rule allows for f of n, in theory and in time."""
    if most_of(rule, n) < f:
        return False
    try:
        met(rule, None, torch.eye(n), torch.empty(0, n), At(0, 0, n, Rand(0)), None)
    except QuorateError:
        return False
    return True


def met(rule: Aggregator, attack: Attack | None, honest: Tensor, own: Tensor, at: At, last: Tensor | None) -> Tensor:
    """Return what a rule makes of the honest (m, d) and what f forge instead of their own (f, d), who come last."""
    given = {"last": last, "rand": at.shared.fold("aggregation")}
    rule = partial(rule, **{name: given[name] for name in what_it_is_given(rule)})
    rows = [*honest]
    if attack is not None:
        hostile = tuple(range(len(honest), len(honest) + len(own)))
        for rank, mine in zip(hostile, own, strict=True):
            said = attack.forge(Seen(mine, honest, hostile, at._replace(rank=rank), last, rule))
            if said is None and most_of(rule, at.size):  # the rule knows that somebody is missing
                said = torch.full_like(mine, torch.nan)
            rows += [] if said is None else [said] * (len(own) if attack.alike else 1)
            if attack.alike:
                break
    else:
        rows += [*own]
    return rule(torch.stack(rows))


def one_meeting(rule: Aggregator, attack: Attack | None, draws: int) -> str:
    """Return the median relative distance from the honest mean."""
    relative = []
    for draw in range(draws):
        generator = Rand(draw).generator()
        updates = torch.randn(D, generator=generator) + torch.randn(N, D, generator=generator)
        honest, own = updates[: N - F], updates[N - F :]
        centre = updates.mean(dim=0) if attack is None else honest.mean(dim=0)
        moved = float((met(rule, attack, honest, own, At(0, 0, N, Rand(draw)), None) - centre).norm())
        relative.append(moved / float(centre.norm()) if isfinite(moved) else inf)
    value = statistics.median(relative)
    return f"{value:.2f}" if value < 10 else f"{value:.0f}"


@dataclass(frozen=True)
class Digits:
    """Softmax regression on the digits of `WORKERS` workers, as flat parameters (d,)."""

    shards: list[Data]
    test: Data

    @staticmethod
    def divided(alike: bool) -> Digits:
        """Divide the training images, evenly or by a Dirichlet distribution."""
        task = digits()
        divide: Callable[..., list[Tensor]] = iid if alike else partial(dirichlet, alpha=0.3)
        shards = divide(task.train, size=WORKERS, rand=Rand(0).fold("shards"))
        return Digits([Data(task.train.x[shard], task.train.y[shard]) for shard in shards], task.test)

    def gradients(self, parameters: Tensor) -> Tensor:
        """Return (n, d): each worker's gradient on all its images."""
        counts = [len(data) for data in self.shards]
        x, y = torch.cat([data.x for data in self.shards]), torch.cat([data.y for data in self.shards])
        error = self.output(parameters, x).softmax(dim=1)
        error[torch.arange(len(y)), y] -= 1
        pairs = zip(_with_one(x).split(counts), error.split(counts), counts, strict=True)
        return torch.stack([(theirs.T @ wrong / count).flatten() for theirs, wrong, count in pairs])

    def output(self, parameters: Tensor, x: Tensor) -> Tensor:
        """Return (n, labels)."""
        return _with_one(x) @ parameters.view(-1, LABELS)


def _with_one(x: Tensor) -> Tensor:
    return torch.cat([x, torch.ones(len(x), 1)], dim=1)


def run(made: Digits, rule: Aggregator, attack: Attack | None, steps: int) -> str:
    """Train, and return the test accuracy, and the share of triggered images taken for the target, in percent."""
    if attack is not None:
        poisoned = [attack.poisoned(data, LABELS, Rand(rank)) for rank, data in enumerate(made.shards)]
        made = Digits([*made.shards[:-LIARS], *poisoned[-LIARS:]], made.test)
    parameters, last = torch.zeros(65 * LABELS), None
    for step in range(steps):
        rows = made.gradients(parameters)
        last = met(rule, attack, rows[:-LIARS], rows[-LIARS:], At(step, 0, WORKERS, Rand(0)), last)
        parameters = parameters - LR * last
        if not parameters.isfinite().all():
            break
    test = made.test
    right = 100 * float((made.output(parameters, test.x).argmax(dim=1) == test.y).double().mean())
    if not isinstance(attack, Backdoor):
        return f"{right:.0f}"
    return f"{right:.0f} ({100 * attack.success(made.output(parameters, attack.triggered(test.x)), test.y):.0f})"


def printed(title: str, names: Mapping[str, Aggregator], value: Callable[[Aggregator, Attack | None], str]) -> None:
    """Print a table in Markdown, a line for each attack as soon as it is there."""
    print(f"\n{title}\n\n| attack | {' | '.join(names)} |\n| --- |{' --- |' * len(names)}")
    for attack_name, attack in ATTACKS.items():
        print(f"| {attack_name} | {' | '.join(value(rule, attack) for rule in names.values())} |", flush=True)


def main() -> None:
    """Print both tables."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--draws", type=int, default=5, help="of the vectors; 0: no vectors")
    parser.add_argument("--steps", type=int, default=50, help="of the runs; 0: no runs")
    parser.add_argument("--iid", action="store_true", help="workers' digits are drawn alike")
    parser.add_argument("--quick", action="store_true", help="1 draw, 5 steps")
    told = parser.parse_args()
    draws, steps = (1, 5) if told.quick else (told.draws, told.steps)
    torch.set_num_threads(1)
    print(machine())
    if draws:
        printed(
            f"Distance from the honest mean over its length, n = {N}, f = {F}, d = {D}, median of {draws} draws",
            rules(N, F, sqrt(D)),
            lambda rule, attack: one_meeting(rule, attack, draws),
        )
    if steps:
        made = Digits.divided(told.iid)
        start = made.gradients(torch.zeros(65 * LABELS))
        radius = float((start - start.mean(dim=0)).norm(dim=1).median())
        printed(
            f"Test accuracy in percent after {steps} steps, {WORKERS} workers, {LIARS} of them hostile, "
            f"{'iid' if told.iid else 'Dirichlet 0.3'}",
            rules(WORKERS, LIARS, radius),
            lambda rule, attack: run(made, rule, attack, steps),
        )


if __name__ == "__main__":
    main()
