"""How many rounds to a target, next to the source of federated averaging; and what helps where labels are skewed?

`table`: MNIST, 100 clients of 600 images, 10 a round, batches of 10, E local epochs: the first round after which the
test accuracy is 97 % (2NN) or 99 % (CNN), with images dealt at random (IID) or two shards of one digit each
(non-IID), by learning rate. Beside it what McMahan et al., AISTATS 2017, found with the best of their learning rates:
IID rounds of the CNN as others quote table 2, the rest from memory of the paper, tables 1 and 2.

`skewed`: labels by Dirichlet(0.1), the 2NN: FedAvg, FedProx, SCAFFOLD and FedAdam after equally many rounds. Each takes
the settings that were best with seed 0, and is then run with other seeds, which all share. The figure is the mean test
accuracy over the last fifth of the rounds, because single rounds jump.

What it needs: --data (or QUORATE_DATA) with mnist/. Two runs at once, one thread each, cheap ones first; --minutes ends
it in time: a run that is broken off says how far it has come. --models 2nn cnn includes the CNN, fifty times as dear.
"""

from __future__ import annotations

import argparse
import json
import os
import statistics
import sys
import time
from concurrent.futures import ProcessPoolExecutor, as_completed
from dataclasses import asdict, dataclass, field
from functools import partial
from multiprocessing import get_context
from pathlib import Path
from typing import Any

import torch
from figures import figure, machine

from quorate.algorithms import Algorithm
from quorate.algorithms.fed_avg import FedAvg
from quorate.algorithms.fed_prox import FedProx
from quorate.algorithms.scaffold import Scaffold
from quorate.engines import Forgetful
from quorate.engines.cohorts import Cohorts
from quorate.engines.federation_simulator import FederationSimulator
from quorate.errors import QuorateError
from quorate.exchange import Exchange
from quorate.federated.setup import client_of
from quorate.optimizer import Optimizer
from quorate.outer_optimizers import OuterOptimizer
from quorate.outer_optimizers.adam import Adam
from quorate.outer_optimizers.sgd import Sgd
from quorate.partitions.dirichlet import dirichlet
from quorate.partitions.iid import iid
from quorate.partitions.shards import shards
from quorate.programs.federated import federated
from quorate.rand import Rand
from quorate.tasks.mnist import mnist
from quorate.training import Training

CLIENTS, COHORT, BATCH = 100, 10, 10
PARTITIONS = {"iid": iid, "shards": shards, "dirichlet": partial(dirichlet, alpha=0.1)}
TARGETS = {"2nn": 0.97, "cnn": 0.99}
MOST = {"2nn": 1_500, "cnn": 600}
"""Rounds after which a run is given up."""
SOURCE: dict[tuple[str, str, int], int] = {
    ("2nn", "iid", 1): 87,
    ("2nn", "shards", 1): 664,
    ("cnn", "iid", 1): 34,
    ("cnn", "shards", 1): 350,
    ("cnn", "iid", 5): 20,
    ("cnn", "shards", 5): 229,
}
"""Rounds to the target in the source, by model, partition and epochs; it has none for the 2NN with 5 epochs."""
SERVERS: dict[str, OuterOptimizer] = {"1": Sgd(), **{f"adam {lr:g}": Adam(lr) for lr in (0.003, 0.01, 0.03)}}
ALGORITHMS: dict[str, Algorithm] = {
    "fed_avg": FedAvg(),
    **{f"fed_prox {mu:g}": FedProx(mu) for mu in (0.01, 0.1, 1.0)},
    "scaffold": Scaffold(weighted=True),
}
METHODS: dict[str, list[tuple[str, str]]] = {
    "FedAvg": [("fed_avg", "1")],
    "FedProx": [(name, "1") for name in ALGORITHMS if name.startswith("fed_prox")],
    "SCAFFOLD": [("scaffold", "1")],
    "FedAdam": [("fed_avg", name) for name in SERVERS if name.startswith("adam")],
}


class Enough(Exception):
    """The target is reached, or the time is up."""


@dataclass
class Curve(Forgetful):
    """Measures the model after every round, until it is good enough."""

    training: Training
    target: float
    until: float
    accuracies: list[float] = field(default_factory=list)

    def commit(self, rank, step, now, loss, shared, own, metrics=None) -> None:  # type: ignore[no-untyped-def]
        """See `Recorder`."""
        self.accuracies.append(self.training.evaluate(shared["parameters"])["accuracy"])
        if self.accuracies[-1] >= self.target or time.time() > self.until:
            raise Enough


@dataclass(frozen=True)
class Run:
    """One federation, to be simulated in a process of its own."""

    model: str
    partition: str
    epochs: int
    lr: float
    rounds: int
    target: float
    algorithm: str = "fed_avg"
    server: str = "1"
    seed: int = 0

    def __call__(self, data: Path, until: float) -> dict[str, Any]:
        """Train; return the test accuracy after each round.

        Args:
            data: the data folder.
            until: seconds since 1970 after which to break off.
        """
        torch.set_num_threads(1)
        began, task = time.process_time(), mnist(data=data, model=self.model)  # type: ignore[arg-type]
        training = Training(task, PARTITIONS[self.partition], CLIENTS, Rand(self.seed))
        program = partial(
            federated,
            algorithm=ALGORITHMS[self.algorithm],
            optimizer=Optimizer("sgd", {"lr": self.lr}),
            outer_optimizer=SERVERS[self.server],
            rounds=self.rounds,
            cohort=COHORT,
            epochs=self.epochs,
            batch=BATCH,
        )
        exchange, curve, why = Exchange(), Curve(training, self.target, until), None
        simulator = FederationSimulator(
            client_of(program, training, exchange, CLIENTS),
            training.shards,
            rand=training.rand,
            recorder=curve,
            train=Cohorts(training.gradient),
        )
        try:
            simulator.run(lambda server: program(server, training, exchange))
        except Enough:
            pass
        except QuorateError as error:
            why = " ".join(str(error).split())[:160]
        found = curve.accuracies
        whole = bool(found) and (found[-1] >= self.target or len(found) == self.rounds)
        return {"accuracies": found, "whole": whole, "failed": why, "cpu_seconds": time.process_time() - began}


def do(planned: list[Run], data: Path, until: float, raw: Path | None) -> dict[Run, dict[str, Any]]:
    """Do runs, two at a time; those that have not begun when the time is up are left out."""
    done = {}
    with ProcessPoolExecutor(2, mp_context=get_context("spawn")) as pool:
        futures = {pool.submit(run, data, until): run for run in planned}
        for future in as_completed(futures):
            run = futures[future]
            if future.cancelled():
                continue
            done[run] = told = future.result()
            last = f"{told['accuracies'][-1]:.4f}" if told["accuracies"] else "none"
            print(f"{run}: {len(told['accuracies'])} rounds, accuracy {last}", file=sys.stderr, flush=True)
            if raw:
                with raw.open("a") as file:
                    file.write(json.dumps(asdict(run) | told | {"machine": machine()}) + "\n")
            if time.time() > until:
                for each in futures:
                    each.cancel()
    return done


def table(options: argparse.Namespace, until: float) -> None:
    """Print rounds to the target."""
    cases = [(m, p, e) for m in options.models for e in options.epochs for p in options.partitions]
    planned = [Run(m, p, e, lr, options.rounds or MOST[m], TARGETS[m]) for m, p, e in cases for lr in options.lr]
    done = do(planned, options.data, until, options.json)
    print(f"\n{'':24}{'source':>8}  rounds to the target, by learning rate")
    for model, partition, epochs in cases:
        mine = [run for run in planned if (run.model, run.partition, run.epochs) == (model, partition, epochs)]
        cells = [f"{run.lr:g}: {_rounds(run, done.get(run))}" for run in mine]
        source = SOURCE.get((model, partition, epochs))
        print(f"{f'{model}, {partition}, E = {epochs}':24}{source or '-':>8}  {', '.join(cells)}")
        reached = [len(done[run]["accuracies"]) for run in mine if run in done and _reached(run, done[run])]
        if reached:
            name = f"{model}, {partition}, E = {epochs}: rounds to {TARGETS[model]:.0%}"
            figure(name, min(reached), source, at_least=False, learning_rates=[run.lr for run in mine if run in done])


def _reached(run: Run, told: dict[str, Any]) -> bool:
    return bool(told["accuracies"]) and told["accuracies"][-1] >= run.target


def _rounds(run: Run, told: dict[str, Any] | None) -> str:
    """Say what has come of a run to a target."""
    if told is None:
        return "not run"
    if told["failed"]:
        return "failed"
    if _reached(run, told):
        return str(len(told["accuracies"]))
    best = max(told["accuracies"], default=0.0)
    return f"over {len(told['accuracies'])} ({best:.2%}{'' if told['whole'] else ', time was up'})"


def skewed(options: argparse.Namespace, until: float) -> None:
    """Print what methods come to."""
    rounds, epochs = options.rounds or 100, options.skewed_epochs
    base = partial(Run, "2nn", "dirichlet", epochs, rounds=rounds, target=2.0)
    tried = {
        name: [base(lr=lr, algorithm=algorithm, server=server) for algorithm, server in settings for lr in options.lr]
        for name, settings in METHODS.items()
    }
    done = do([run for runs in tried.values() for run in runs], options.data, until, options.json)
    best = {name: max(runs, key=lambda run: _late(done.get(run))) for name, runs in tried.items()}
    seeds = range(1, options.seeds + 1)
    again = {name: [_with_seed(run, seed) for seed in seeds] for name, run in best.items()}
    done |= do([run for group in zip(*again.values(), strict=True) for run in group], options.data, until, options.json)
    print(f"\nDirichlet(0.1), 2NN, E = {epochs}, {rounds} rounds; accuracy over the last fifth of them")
    for name, runs in again.items():
        values = [_late(done[run]) for run in runs if run in done and done[run]["whole"]]
        run = best[name]
        setting = f"{run.algorithm}, server {run.server}, lr {run.lr:g} of {len(tried[name])} settings tried"
        if not values:
            print(f"{name:10}not run; seed 0: {_late(done.get(run)):.2%} ({setting})")
            continue
        spread = ", ".join(f"{value:.2%}" for value in values)
        print(f"{name:10}{statistics.mean(values):.2%} ({spread}); {setting}")
        figure(f"skewed: {name}, accuracy", statistics.mean(values), seeds=len(values), low=min(values))


def _with_seed(run: Run, seed: int) -> Run:
    return Run(**asdict(run) | {"seed": seed})


def _late(told: dict[str, Any] | None) -> float:
    """Return the mean accuracy over the last fifth of the rounds; -1 if it is not known."""
    if told is None or not told["whole"]:
        return -1.0
    found = told["accuracies"]
    return statistics.mean(found[-max(1, len(found) // 5) :])


def main() -> None:
    """Print tables, and figures as lines of JSON."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--quick", action="store_true", help="three rounds of each, which say nothing")
    parser.add_argument("--parts", nargs="+", default=["table", "skewed"], choices=["table", "skewed"])
    parser.add_argument("--models", nargs="+", default=["2nn"], choices=["2nn", "cnn"], help="of the table")
    parser.add_argument("--epochs", nargs="+", type=int, default=[1, 5], help="E, of the table")
    parser.add_argument("--partitions", nargs="+", default=["iid", "shards"], choices=["iid", "shards"])
    parser.add_argument("--lr", nargs="+", type=float, default=[0.05, 0.1, 0.2], help="clients' learning rates")
    parser.add_argument("--skewed-epochs", type=int, default=1, help="E, of the skewed part")
    parser.add_argument("--seeds", type=int, default=3, help="of the skewed part, besides the one to choose by")
    parser.add_argument(
        "--rounds", type=int, help="at most; default: 1,500 (2NN), 600 (CNN), and 100 of the skewed part"
    )
    parser.add_argument("--minutes", type=float, default=20.0, help="for each part")
    parser.add_argument("--data", type=Path, default=os.environ.get("QUORATE_DATA"), help="folder of data sets")
    parser.add_argument("--json", type=Path, help="file that the raw numbers are appended to")
    options = parser.parse_args()
    if options.data is None:
        sys.exit("error: MNIST is needed\nhint: --data FOLDER")
    options.data = Path(options.data)
    if options.quick:
        options.lr, options.epochs, options.partitions, options.rounds, options.seeds = [0.1], [1], ["iid"], 3, 1
    for part in options.parts:
        {"table": table, "skewed": skewed}[part](options, time.time() + 60 * options.minutes)


if __name__ == "__main__":
    main()
