"""How much sooner than a geometric median do redundancy codes come to an accuracy, when some workers lie?

DRACO's comparison: MNIST, a fully connected network of a million parameters and LeNet, 45 workers, 720 samples a step,
learning rate 0.01, momentum 0.9; 1, 3 or 5 workers, drawn anew in every step, send -100 in every entry, or -100 times
their gradient. The time to 80, 85, 88 and 90 % test accuracy is the simulator's, on `clusters/draco.toml`, with the
seconds that a sample takes measured here (one thread), plus what combining takes here, measured too, once a step.

`repetition` has groups of the least size that withstands as many liars in one group and divides 45: 3, 9 and 15. Under
a code the parameters are those of a run in which nobody lies; so that run is done once, as one worker with all samples
of a step, and the attacked ones are compared with it for a few steps. The published ratios are those of time to
accuracy over the geometric median for repetition / cyclic, of the fully connected network. What differs: there one
server gathered everything, in float64, here everybody gets everything in float32, repetition by digests; there the
geometric median was `hdmedians`', layer by layer, here it is of the whole gradient, and many times as fast.

What it needs: --data (or QUORATE_DATA) with mnist/. --minutes ends it in time; cheap settings come first.
"""

from __future__ import annotations

import argparse
import os
import statistics
import time
from collections.abc import Callable, Iterator
from contextlib import suppress
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path
from typing import Any

import torch
from figures import figure
from torch import Tensor, nn

from quorate.aggregators.geometric_median import geometric_median
from quorate.aggregators.median import median
from quorate.aggregators.multi_krum import multi_krum
from quorate.aggregators.trimmed_mean import trimmed_mean
from quorate.attacks.constant import Constant
from quorate.attacks.reversed_gradient import ReversedGradient
from quorate.cluster_file import load_cluster
from quorate.codes.cyclic import Cyclic
from quorate.codes.repetition import Repetition
from quorate.engines import Forgetful
from quorate.engines.simulator import Simulator
from quorate.errors import QuorateError
from quorate.exchange import Exchange
from quorate.hostility import Hostility
from quorate.optimizer import Optimizer
from quorate.partitions.iid import iid
from quorate.programs.coded_sgd import coded_sgd
from quorate.programs.synchronous_sgd import synchronous_sgd
from quorate.rand import Rand
from quorate.tasks import Task
from quorate.tasks.mnist import mnist
from quorate.training import Training
from quorate.votes import digests_of

WORKERS, BATCH, RAND = 45, 16, Rand(428)
MARKS = (0.80, 0.85, 0.88, 0.90)
ATTACKS = {"constant": Constant(-100.0), "reversed": ReversedGradient(100.0)}
RULES: dict[str, Any] = {"multi_krum": multi_krum, "trimmed_mean": trimmed_mean, "median": median}
GROUPS = {1: 1, 3: 4, 5: 7}  # how many liars a group of repetition withstands, for so many in all
PUBLISHED = {
    ("constant", 1): ((3.4, 2.7), (3.5, 2.8), (4.8, 3.9), (4.1, 3.1)),
    ("constant", 5): ((2.9, 2.2), (4.8, 3.7), (6.1, 4.7), (5.3, 3.8)),
    ("reversed", 1): ((2.2, 1.9), (2.4, 2.2), (4.1, 3.7), (3.2, 2.9)),
    ("reversed", 5): ((2.7, 2.3), (3.0, 2.6), (3.1, 2.7), (3.1, 2.6)),
}


class Enough(Exception):
    """A run has shown what it was to show."""


class Marks(Forgetful):
    """Notes the step and the clock of the first evaluation that comes to each mark; ends the run at the last one."""

    def __init__(self, training: Training, every: int, deadline: float) -> None:
        self.training, self.every, self.deadline = training, every, deadline
        self.reached: dict[float, int] = {}
        self.best, self.steps = 0.0, 0

    def commit(self, rank: int, step: int, now: float, loss: float, shared: Any, own: Any, metrics: Any = None) -> None:
        if rank == 0:
            self.steps = step
        if rank or step % self.every:
            return
        accuracy = self.training.evaluate(shared["parameters"])["accuracy"]
        self.best = max(self.best, accuracy)
        for mark in MARKS:
            if accuracy >= mark:
                self.reached.setdefault(mark, step)
        if MARKS[-1] in self.reached or time.monotonic() > self.deadline:
            raise Enough


def lenet() -> nn.Module:
    return nn.Sequential(
        *(nn.Conv2d(1, 20, 5), nn.ReLU(), nn.MaxPool2d(2), nn.Conv2d(20, 50, 5), nn.ReLU(), nn.MaxPool2d(2)),
        *(nn.Flatten(), nn.Linear(800, 500), nn.ReLU(), nn.Linear(500, 10)),
    )


def task_of(model: str, data: Path | None) -> Task:
    if model == "fc":
        return mnist(data=data, model="mlp")
    return replace(mnist(data=data, model="cnn"), model=lenet)


def seconds(work: Callable[[], object], repeats: int = 3) -> float:
    """Return the median time of a call on one thread, not counting what others do; the first call is not counted."""
    work()
    times = []
    for _ in range(repeats):
        began = time.process_time()
        work()
        times.append(time.process_time() - began)
    return statistics.median(times)


@dataclass
class Bench:
    """One network, and what is known of it."""

    model: str
    task: Task
    every: int
    most: int
    deadline: float

    def __post_init__(self) -> None:
        self.optimizer = Optimizer("sgd", {"lr": 0.01, "momentum": 0.9})
        self.training = self.divided(WORKERS)
        self.d = self.training.layout.numel
        x, batch = self.training.initial().clone(), self.training.batch(0, 0, BATCH)
        self.a_sample = seconds(lambda: self.training.gradient(x, batch), 9) / BATCH
        cluster = load_cluster(Path(__file__).parent.parent / "clusters" / "draco.toml", WORKERS)
        self.cluster = cluster.model_copy(update={"seconds_per_sample": self.a_sample})
        self.rows = torch.randn(WORKERS, self.d, generator=RAND.generator())

    def divided(self, size: int) -> Training:
        return Training(self.task, iid, size, RAND)

    def marks(self, program: Any, size: int, exchange: Exchange, batch: int) -> Marks:
        """Train until the last mark; return what was reached."""
        training = self.divided(size)
        noted = Marks(training, self.every, self.deadline)
        bound = partial(
            program, training=training, exchange=exchange, optimizer=self.optimizer, steps=self.most, batch=batch
        )
        with suppress(Enough, QuorateError):  # one that diverges never gets there
            Simulator(size, self.cluster, recorder=noted).run(bound)
        return noted

    def step_of(self, program: Any, exchange: Exchange, steps: int = 2, **more: Any) -> tuple[float, float, Tensor]:
        """Return virtual seconds and bytes of a step, and the parameters after some."""
        bound = partial(
            program,
            training=self.training,
            exchange=exchange,
            optimizer=self.optimizer,
            steps=steps,
            batch=BATCH,
            **more,
        )
        simulator = Simulator(WORKERS, self.cluster)
        parameters = simulator.run(bound)[0]
        return simulator.clock / steps, simulator.trace.bytes / steps, parameters

    def combining(self, code: Repetition | Cyclic | None, rule: Any) -> float:
        """Return the seconds that a worker takes to encode, hash, decode or aggregate in a step."""
        if rule is not None:
            return seconds(lambda: rule(self.rows))
        assert code is not None
        held = len(code.batches(WORKERS, 0))
        encode = seconds(lambda: code.encode(list(self.rows[:held]), WORKERS, 0))
        if isinstance(code, Repetition):
            won = list(self.rows[: WORKERS // code.r])
            return encode + seconds(lambda: (digests_of([self.rows[0], *won]), code.mean(won)))
        answers = [
            code.encode([self.rows[j] for j in code.batches(WORKERS, rank)], WORKERS, rank) for rank in range(WORKERS)
        ]
        for rank in range(code.s):
            answers[rank * WORKERS // code.s] = torch.full_like(answers[0], -100.0)
        return encode + seconds(lambda: code.decode(answers, self.rows[0]), 2)


def cases(bench: Bench, rules: list[str]) -> Iterator[None]:
    """Print the figures of a network, a setting at a time."""
    honest = bench.marks(synchronous_sgd, 1, Exchange(), WORKERS * BATCH)
    print(f"{bench.model}: {bench.d} parameters, {1e3 * bench.a_sample:.2f} ms a sample; nobody lies: {honest.reached}")
    for f in (1, 3, 5):
        for name, attack in ATTACKS.items():
            hostility = Hostility(attack, RAND, f, redrawn=True, knows="own")
            times: dict[str, dict[float, float]] = {}
            for code in (Repetition(GROUPS[f]), Cyclic(f)):
                of, bytes_sent, lied = bench.step_of(coded_sgd, Exchange(hostility=hostility), code=code)
                _, _, plain = bench.step_of(coded_sgd, Exchange(), code=code)
                kind, extra = type(code).__name__.lower(), bench.combining(code, None)
                same = float(torch.equal(lied, plain)) if kind == "repetition" else float((lied - plain).abs().max())
                figure(f"{bench.model}, {name}, {f} lie, {kind}: same parameters", same, bytes_a_step=bytes_sent)
                print(f"    {kind}: {of:.3f} s a step on the cluster, and {extra:.3f} s to combine")
                times[kind] = {mark: step * (of + extra) for mark, step in honest.reached.items()}
                yield
            for rule, made in {"geometric_median": geometric_median, **{each: RULES[each] for each in rules}}.items():
                bound = partial(made, f=f)
                exchange = Exchange(aggregator=bound, hostility=hostility)
                of, bytes_sent, _ = bench.step_of(synchronous_sgd, exchange)
                extra = bench.combining(None, bound)
                found = bench.marks(synchronous_sgd, WORKERS, exchange, BATCH)
                print(f"    {rule}: {of:.3f} s a step, and {extra:.3f} s to combine; {found.reached} of {found.steps}")
                times[rule] = {mark: step * (of + extra) for mark, step in found.reached.items()}
                yield
            told(bench.model, name, f, times)


def told(model: str, attack: str, f: int, times: dict[str, dict[float, float]]) -> None:
    """Print how many times sooner than by the geometric median, and by the best other rule, each mark is reached."""
    rules = [rule for rule in times if rule in RULES]
    best = min(rules, key=lambda rule: times[rule].get(MARKS[-1], float("inf")), default=None)
    for place, mark in enumerate(MARKS):
        reached = {name: each.get(mark) for name, each in times.items()}
        published = PUBLISHED.get((attack, f)) if model == "fc" else None
        slow, quick = reached.get("geometric_median"), [reached["repetition"], reached["cyclic"]]
        for kind, value, column in zip(("repetition", "cyclic"), quick, (0, 1), strict=True):
            if value is not None:
                ratio = float("inf") if slow is None else slow / value
                other = {f"seconds of {best}": reached.get(best)} if best else {}
                figure(
                    f"{model}, {attack}, {f} lie: {kind} to {mark:.0%}, times sooner than the geometric median",
                    ratio,
                    published=published[place][column] if published else None,
                    seconds=value,
                    **other,
                )


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--data", type=Path, default=os.environ.get("QUORATE_DATA"), help="the folder of data sets")
    parser.add_argument("--models", nargs="+", choices=["fc", "lenet"], default=["fc", "lenet"])
    parser.add_argument("--rules", nargs="*", choices=sorted(RULES), default=["multi_krum", "trimmed_mean"])
    parser.add_argument("--minutes", type=float, default=60.0)
    parser.add_argument("--steps", type=int, default=600, help="the most steps of a run")
    parser.add_argument("--every", type=int, default=5, help="steps between two evaluations")
    options = parser.parse_args()
    torch.set_num_threads(1)
    deadline = time.monotonic() + 60 * options.minutes
    for model in options.models:
        bench = Bench(model, task_of(model, options.data), options.every, options.steps, deadline)
        for _ in cases(bench, options.rules):
            if time.monotonic() > deadline:
                print("out of time")
                return


if __name__ == "__main__":
    main()
