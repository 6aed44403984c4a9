"""What does a codec cost in accuracy, or perplexity, after equally many steps?

Synchronous SGD on the simulator, 4 workers, k = 0.001 d with error feedback: a residual network on CIFAR-10 (77,850
parameters, 78 entries a message) and the recurrent character model on Shakespeare's text (47,521). Three seeds, which
all codecs share: the figure is the median over seeds of the codec's accuracy less that of the dense run of the same
seed, in points, or of its perplexity over the dense one's, less 1. Sparsifiers in error feedback begin with a quarter
of the entries, which falls to k in the first part of the run (--warm-up, a share of the steps; the source of this
schedule takes 4 epochs). How many steps there are matters: of 0.001 d entries, an entry's turn comes once in some 250
steps of 4 workers. The learning rate falls to a tenth at a half and to a hundredth at three quarters.

What it needs: --data (or QUORATE_DATA) with cifar10/ and shakespeare/. Two runs at once, one thread each, of two to
four minutes. --minutes ends it in time: runs that have not begun are left out, and it says which. --reduced (some 15
minutes) does the recommended codecs in a tenth of the steps, where sparse messages are far from what they reach;
--quick a few steps, which say nothing about accuracy. The recommended codecs take an hour, all of them four.
"""

from __future__ import annotations

import argparse
import json
import math
import os
import statistics
import sys
import time
from concurrent.futures import CancelledError, ProcessPoolExecutor, as_completed
from dataclasses import asdict, dataclass
from functools import partial
from multiprocessing import get_context
from pathlib import Path
from typing import Any

import codings
import torch
from figures import figure

from quorate.engines.simulator import Simulator
from quorate.errors import QuorateError
from quorate.exchange import Exchange, Meeting
from quorate.learning_rates.steps import steps as decayed
from quorate.optimizer import Optimizer
from quorate.partitions.iid import iid
from quorate.programs.synchronous_sgd import synchronous_sgd
from quorate.rand import Rand
from quorate.tasks import Task
from quorate.tasks.cifar10 import cifar10
from quorate.tasks.shakespeare import shakespeare
from quorate.training import Training

WORKERS = 4
DENSE = "identity"
SETTINGS: dict[str, dict[str, Any]] = {
    "cifar10": {"steps": 3_600, "batch": 32, "lr": 0.1},
    "shakespeare": {"steps": 3_600, "batch": 16, "lr": 0.3},
}


def task_of(name: str, data: Path) -> Task:
    """Load a task."""
    return cifar10(data=data, model="resnet") if name == "cifar10" else shakespeare(data=data)


@dataclass(frozen=True)
class Run:
    """One training run, to be done in a process of its own."""

    task: str
    codec: str
    seed: int
    steps: int
    warm_up: int
    momentum: float
    lr: float
    data: Path

    def __call__(self) -> dict[str, Any]:
        """Train; return what was measured at the end, or why it could not be done."""
        torch.set_num_threads(1)
        began, settings = time.perf_counter(), SETTINGS[self.task]
        try:
            training = Training(task_of(self.task, self.data), iid, WORKERS, Rand(self.seed))
            codec = codings.build(self.codec, warm_up=self.warm_up, momentum=self.momentum)
            momentum = 0.0 if getattr(codec, "momentum", 0.0) else 0.9
            exchange = Exchange(codec).laid_out(training.layout)
            program = partial(
                synchronous_sgd,
                training=training,
                exchange=exchange,
                optimizer=Optimizer("sgd", {"lr": self.lr, "momentum": momentum}),
                steps=self.steps,
                batch=settings["batch"],
                learning_rate=partial(decayed, at=[self.steps // 2, self.steps * 3 // 4]),
            )
            simulator = Simulator(WORKERS)
            measured = training.evaluate(simulator.run(program)[0])
        except QuorateError as error:
            return {"failed": " ".join(str(error).split())[:160]}
        said = float(exchange.bytes_said(training.initial()))
        if not exchange.sums_in_flight and not isinstance(codec, Meeting):
            said = simulator.trace.sent_bytes[0] / (WORKERS - 1) / self.steps
        return measured | {"bytes": said, "seconds": time.perf_counter() - began}


def runs_of(options: argparse.Namespace) -> list[Run]:
    """Return all runs, those that matter most first."""
    planned = []
    for seed in range(options.seeds):
        for task in options.tasks:
            steps = options.steps or round(SETTINGS[task]["steps"] * options.share)
            for codec in dict.fromkeys([DENSE, *options.codecs]):
                warm_up = round(options.warm_up * steps)
                lr = options.lr or SETTINGS[task]["lr"]
                planned.append(Run(task, codec, seed, steps, warm_up, options.momentum, lr, options.data))
    return planned


def do(planned: list[Run], minutes: float, raw: Path | None) -> dict[Run, dict[str, Any]]:
    """Do runs, two at a time, until the time is up."""
    until, done = time.monotonic() + 60 * minutes, {}
    with ProcessPoolExecutor(2, mp_context=get_context("spawn")) as pool:
        futures = {pool.submit(run): run for run in planned}
        for future in as_completed(futures):
            run = futures[future]
            try:
                done[run] = told = future.result()
            except CancelledError:
                continue
            print(f"{run.task}, {run.codec}, seed {run.seed}: {json.dumps(told)}", file=sys.stderr, flush=True)
            if raw:
                with raw.open("a") as file:
                    file.write(json.dumps(asdict(run) | {"data": None} | told) + "\n")
            if time.monotonic() > until:
                for each in futures:
                    each.cancel()
    return done


def report(task: str, planned: list[Run], done: dict[Run, dict[str, Any]]) -> None:
    """Print a task's table, the codecs that lose most last, and its figures."""
    mine = {run: told for run, told in done.items() if run.task == task}
    dense = {run.seed: told for run, told in mine.items() if run.codec == DENSE and "failed" not in told}
    if not dense:
        print(f"{task}: no dense run was done")
        return
    steps = next(run.steps for run in planned if run.task == task)
    own = f"{100 * statistics.median(each['accuracy'] for each in dense.values()):.2f} %"
    spread = [f"{100 * each['accuracy']:.2f}" for each in dense.values()]
    print(f"\n{task}, {steps} steps, {WORKERS} workers; dense: accuracy {own} ({', '.join(spread)})")
    print(f"{'':16}{'points':>8}{'of each seed':>26}{'perplexity':>12}{'of each seed':>26}{'bytes said':>12}")
    rows: list[tuple[float, str, str]] = []
    for codec in dict.fromkeys(run.codec for run in planned if run.task == task):
        both = [(told, dense[run.seed]) for run, told in mine.items() if run.codec == codec and run.seed in dense]
        told = [pair for pair in both if "failed" not in pair[0]]
        if not told:
            why = both[0][0]["failed"] if both else "not done, time was up"
            rows.append((-math.inf, codec, f"{codec:16} {why}"))
            continue
        points = [100 * (own["accuracy"] - other["accuracy"]) for own, other in told]
        worse = [math.exp(own["test_loss"] - other["test_loss"]) - 1 for own, other in told]
        points_of_seeds = " ".join(f"{each:+.2f}" for each in points)
        worse_of_seeds = " ".join(f"{each:+.1%}" for each in worse)
        line = f"{codec:16}{statistics.median(points):+8.2f}{points_of_seeds:>26}{statistics.median(worse):+12.1%}"
        line += f"{worse_of_seeds:>26}{told[0][0]['bytes']:12.0f}"
        measure = statistics.median(points) if task == "cifar10" else -100 * statistics.median(worse)
        rows.append((measure, codec, line))
    for _, _, line in sorted(rows, key=lambda row: -row[0]):
        print(line)
    for measure, codec, _ in rows:
        if codec in codings.RECOMMENDED and measure > -math.inf:
            unit, target = ("points of accuracy", -0.5) if task == "cifar10" else ("% of perplexity", -1.0)
            seeds = sum(run.codec == codec for run in mine)
            figure(f"{task}: {codec} over dense, {unit}", measure, target, seeds=seeds, steps=steps)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--quick", action="store_true", help="a few steps of three codecs, one seed")
    parser.add_argument("--reduced", action="store_true", help="recommended codecs, a tenth of the steps, 15 minutes")
    parser.add_argument("--tasks", nargs="+", default=list(SETTINGS), choices=list(SETTINGS))
    parser.add_argument("--codecs", nargs="+", help="names; default: all")
    parser.add_argument("--seeds", type=int, default=3)
    parser.add_argument("--steps", type=int, help="of both tasks; default: 3,600")
    parser.add_argument("--warm-up", type=float, default=0.25, help="share of the steps")
    parser.add_argument("--momentum", type=float, default=0.0, help="momentum correction instead of the optimizer's")
    parser.add_argument("--lr", type=float, help="learning rate; default: 0.1 and 0.3")
    parser.add_argument("--minutes", type=float, default=600.0, help="after which no run begins")
    parser.add_argument("--data", type=Path, default=os.environ.get("QUORATE_DATA"), help="folder of data sets")
    parser.add_argument("--json", type=Path, help="file that the raw numbers are appended to")
    options = parser.parse_args()
    if options.data is None:
        sys.exit("error: CIFAR-10 and the text are needed\nhint: --data FOLDER")
    options.data, known, options.share = Path(options.data), codings.names(), 1.0
    recommended = [each for each in codings.RECOMMENDED if each in known]
    if options.quick:
        options.codecs, options.seeds, options.steps = options.codecs or recommended[:2], 1, options.steps or 12
    if options.reduced:
        options.codecs, options.share = options.codecs or recommended, 1 / 10
        options.minutes = min(options.minutes, 13.0)
    options.codecs = options.codecs or known
    planned = runs_of(options)
    print(f"{len(planned)} runs: {options.seeds} seeds, codecs {', '.join(options.codecs)}", flush=True)
    done = do(planned, options.minutes, options.json)
    for task in options.tasks:
        report(task, planned, done)
    left_out = [f"{run.task}/{run.codec}/seed {run.seed}" for run in planned if run not in done]
    if left_out or options.share < 1 or options.quick:
        print(f"\nreduced: {options.share:.2f} of the steps; left out: {', '.join(left_out) or 'no run'}")


if __name__ == "__main__":
    main()
