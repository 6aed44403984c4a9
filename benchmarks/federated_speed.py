"""What does a simulated round of federated averaging cost, next to other simulators and to a loop with none at all?

One work for everybody: clients with MNIST-shaped random examples, a cohort trained for one epoch in batches of 10 by
plain gradient descent, and averaged. Every contender is a process of its own with one torch thread, in turn. Counted
are, from the end of the first round, CPU seconds a round of the whole process tree (what can be compared on a machine
that is not idle) and rounds per second; besides, the seconds until the first round begins and the peak memory
(proportional set size). Printed are medians over the repeats, and ratios to the bare loop's.

The bare PyTorch loop is part of this file. `--peers FOLDER` adds scripts that take `--model --rounds --clients
--examples --per-round` and print a line of JSON: `pfl_sim.py`, `flower_sim.py`, `fedlab_sim.py`, each run by the
interpreter that `--pfl`, `--flower`, `--fedlab` name. Those that are missing are said and left out.

At last: how far parameters are from those of the bare loop over the same clients and batches, in float32 and float64.
"""

from __future__ import annotations

import argparse
import json
import os
import statistics
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from figures import figure
from torch import nn

from quorate import recipe as recipes
from quorate import run
from quorate.engines.cohorts import Cohorts
from quorate.federated.local import Local as Side
from quorate.federated.local import LocalSettings, LocalWork
from quorate.optimizer import Optimizer
from quorate.partitions.iid import iid
from quorate.rand import Rand
from quorate.tasks import Data, Task
from quorate.training import Training

BATCH, LR = 10, 0.1
PEERS = {"pfl": "pfl_sim.py", "flower": "flower_sim.py", "fedlab": "fedlab_sim.py"}
RECIPE = """
workers = {clients}
[task]
name = "{task}"
model = "{model}"
samples = {samples}
[program]
name = "federated"
rounds = {rounds}
cohort = {cohort}
batch = 10
[algorithm]
name = "fed_avg"
[optimizer]
name = "sgd"
lr = 0.1
[simulator]
batching = "vectorised"
processes = {processes}
[record]
metrics = 1
evaluate = 0
checkpoint = 0
[comparison]
alone = false
pooled = false
"""


@dataclass(frozen=True)
class Work:
    """What every contender does."""

    model: str
    clients: int
    examples: int
    cohort: int
    rounds: int


WORKS = {
    "2nn": Work("2nn", 100, 600, 10, 20),
    "cnn": Work("cnn", 100, 600, 10, 2),
    "small": Work("2nn", 1000, 20, 1000, 5),
}
TARGETS = {
    ("2nn", "bare"): 2.5,
    ("2nn", "pfl"): 3.5,
    ("2nn", "flower"): 5.0,
    ("cnn", "bare"): 1.2,
    ("small", "bare"): 4.0,
}


def build(model: str) -> nn.Module:
    """Make McMahan et al.'s network for vectors of 784."""
    if model == "2nn":
        return nn.Sequential(nn.Linear(784, 200), nn.ReLU(), nn.Linear(200, 200), nn.ReLU(), nn.Linear(200, 10))
    convolutions = [nn.Conv2d(1, 32, 5, padding=2), nn.ReLU(), nn.MaxPool2d(2)]
    convolutions += [nn.Conv2d(32, 64, 5, padding=2), nn.ReLU(), nn.MaxPool2d(2)]
    dense = [nn.Flatten(), nn.Linear(3136, 512), nn.ReLU(), nn.Linear(512, 10)]
    return nn.Sequential(nn.Unflatten(1, (1, 28, 28)), *convolutions, *dense)


def drawn(samples: int, dtype: torch.dtype = torch.float32) -> Data:
    """Draw random examples."""
    generator = torch.Generator().manual_seed(1000)
    x = torch.randn(samples, 784, generator=generator).to(dtype)
    return Data(x, torch.randint(0, 10, (samples,), generator=generator))


def task(*, model: str, samples: int) -> Task:
    """Learn random labels; named in the recipe."""
    data = drawn(samples)
    test = Data(data.x[:10].clone(), data.y[:10].clone())  # views would keep all samples in memory
    return Task(lambda: build(model), nn.functional.cross_entropy, data, test)


class Meter:
    """CPU seconds, wall seconds and memory of this process at the end of each round."""

    def __init__(self) -> None:
        self._started = time.time() - _age()
        self._times: list[float] = []
        self._cpu: list[float] = []
        self._peak, self._over = 0.0, threading.Event()
        self._watch = threading.Thread(target=self._sample, daemon=True)
        self._watch.start()

    def _sample(self) -> None:
        while not self._over.wait(0.5):
            self._peak = max(self._peak, _all_megabytes())

    def mark(self) -> None:
        """Note that a round is over."""
        self._times.append(time.time())
        self._cpu.append(time.process_time() + sum(map(_cpu_seconds, _children())))

    def say(self) -> None:
        """Print one line of JSON, in the form of the peers."""
        self._over.set()
        self._watch.join()
        rounds = len(self._times) - 1
        shortest = min(b - a for a, b in zip(self._times, self._times[1:], strict=False))
        line = {
            "cpu_s_per_round": (self._cpu[-1] - self._cpu[0]) / rounds,
            "rounds_per_s": rounds / (self._times[-1] - self._times[0]),
            "startup_s": self._times[0] - self._started - shortest,
            "peak_rss_mb": max(self._peak, _all_megabytes()),
        }
        print(json.dumps(line), flush=True)


def _age() -> float:
    """Return for how many seconds this process has been running."""
    ticks = int(Path("/proc/self/stat").read_text().rsplit(")", 1)[1].split()[19])
    return float(Path("/proc/uptime").read_text().split()[0]) - ticks / os.sysconf("SC_CLK_TCK")


def _children() -> list[str]:
    return Path(f"/proc/self/task/{os.getpid()}/children").read_text().split()


def _cpu_seconds(process: str) -> float:
    try:
        fields = Path(f"/proc/{process}/stat").read_text().rsplit(")", 1)[1].split()
    except (FileNotFoundError, ProcessLookupError):
        return 0.0
    return (int(fields[11]) + int(fields[12])) / os.sysconf("SC_CLK_TCK")


def _all_megabytes() -> float:
    return sum(map(_megabytes, ["self", *_children()]))


def _megabytes(process: str) -> float:
    try:
        lines = Path(f"/proc/{process}/smaps_rollup").read_text().splitlines()
    except (FileNotFoundError, ProcessLookupError):
        return 0.0
    return sum(int(line.split()[1]) for line in lines if line.startswith("Pss:")) / 1024


def descend(model: nn.Module, x: torch.Tensor, y: torch.Tensor) -> None:
    """Do one client's epoch in plain PyTorch."""
    optimizer, loss = torch.optim.SGD(model.parameters(), lr=LR), nn.CrossEntropyLoss()
    for some, labels in zip(x.split(BATCH), y.split(BATCH), strict=True):
        optimizer.zero_grad()
        loss(model(some), labels).backward()
        optimizer.step()


def bare(work: Work) -> None:
    """Run the loop with no framework at all."""
    meter, data = Meter(), drawn(work.clients * work.examples)
    model = build(work.model)
    parameters = list(model.parameters())
    current = [each.detach().clone() for each in parameters]
    choice = torch.Generator().manual_seed(7)
    for _ in range(work.rounds):
        total = [torch.zeros_like(each) for each in current]
        for client in torch.randperm(work.clients, generator=choice)[: work.cohort].tolist():
            place = slice(client * work.examples, (client + 1) * work.examples)
            with torch.no_grad():
                for each, value in zip(parameters, current, strict=True):
                    each.copy_(value)
            descend(model, data.x[place], data.y[place])
            with torch.no_grad():
                for some, each in zip(total, parameters, strict=True):
                    some += each
        current = [each / work.cohort for each in total]
        meter.mark()
    meter.say()


def ours(work: Work, processes: int = 1) -> None:
    """Run the recipe as `quorate run` does."""
    meter = Meter()
    with tempfile.TemporaryDirectory() as folder:
        text = RECIPE.format(
            clients=work.clients,
            task=f"{Path(__file__).resolve()}:task",
            model=work.model,
            samples=work.clients * work.examples,
            rounds=work.rounds,
            cohort=work.cohort,
            processes=processes,
        )
        recipe = recipes.parse(text, "federated_speed", Path(folder))
        run.simulate(recipe, work.clients, Path(folder) / "run", progress=lambda round, measures: meter.mark())
    meter.say()


def measured(command: list[str]) -> dict[str, Any] | str:
    """Run a contender, and return its line; or why there is none."""
    done = subprocess.run(command, capture_output=True, text=True, env=os.environ | {"OMP_NUM_THREADS": "1"})
    lines = [line for line in done.stdout.splitlines() if line.startswith("{")]
    if done.returncode or not lines:
        return (done.stderr.strip().splitlines() or ["it printed nothing"])[-1]
    result: dict[str, Any] = json.loads(lines[-1])
    return result


def commands(name: str, work: Work, options: argparse.Namespace) -> Iterator[tuple[str, list[str]]]:
    """Yield the contenders and how they are run; say which are missing."""
    own = [sys.executable, __file__, "--work", name, "--rounds", str(work.rounds), "--contender"]
    yield from (("ours", [*own, "ours", "--processes", str(options.processes)]), ("bare", [*own, "bare"]))
    given = {"model": work.model, "rounds": work.rounds, "clients": work.clients, "examples": work.examples}
    arguments = [f"--{key}={value}" for key, value in given.items()] + [f"--per-round={work.cohort}"]
    for peer, script in PEERS.items():
        python = getattr(options, peer)
        if options.peers is None or python is None or not (options.peers / script).exists():
            print(f"left out: {peer} (give --peers FOLDER with {script}, and --{peer} INTERPRETER)", flush=True)
        else:
            yield peer, [str(python), str(options.peers / script), *arguments]


def compare(name: str, work: Work, options: argparse.Namespace) -> bool:
    """Run all contenders in turn, and print medians and ratios."""
    results: dict[str, list[dict[str, Any]]] = {}
    contenders = dict(commands(name, work, options))
    for _ in range(options.repeats):
        for peer, command in list(contenders.items()):
            result = measured(command)
            if isinstance(result, str):
                print(f"left out: {peer} ({result})", flush=True)
                del contenders[peer]
            else:
                results.setdefault(peer, []).append(result)
    print(f"{name}: {work}\n{'':8} CPU ms/round  [least, most]   ratio  rounds/s  start-up s  peak MB", flush=True)
    middle = {
        peer: {key: statistics.median(each[key] for each in rows) for key in ("cpu_s_per_round", "startup_s")}
        for peer, rows in results.items()
    }
    met = True
    for peer, rows in results.items():
        spent = [each["cpu_s_per_round"] * 1e3 for each in rows]
        ratio = middle["bare"]["cpu_s_per_round"] / middle[peer]["cpu_s_per_round"]
        rate, peak = (statistics.median(each[key] for each in rows) for key in ("rounds_per_s", "peak_rss_mb"))
        print(
            f"{peer:8} {statistics.median(spent):12.1f}  [{min(spent):.1f}, {max(spent):.1f}]  {ratio:6.2f}"
            f"  {rate:8.2f}  {middle[peer]['startup_s']:10.2f}  {peak:7.0f}",
            flush=True,
        )
        if peer != "ours":
            value = middle[peer]["cpu_s_per_round"] / middle["ours"]["cpu_s_per_round"]
            pairs = zip(rows, results["ours"], strict=False)
            each = sorted(a["cpu_s_per_round"] / b["cpu_s_per_round"] for a, b in pairs)
            spread = [round(each[0], 2), round(each[-1], 2)]
            met &= figure(f"{name}: CPU of {peer} / ours", value, TARGETS.get((name, peer)), spread=spread)
    met &= figure(f"{name}: start-up, s", middle["ours"]["startup_s"], 4.0, at_least=False)
    peak = statistics.median(each["peak_rss_mb"] for each in results["ours"])
    return figure(f"{name}: peak memory, MB", peak, 700.0, at_least=False) and met


def distance(model: str, clients: int, examples: int, dtype: torch.dtype) -> float:
    """Return how far a round's mean of parameters is from the bare loop's, relative to the loop."""
    data = drawn(clients * examples, dtype)
    made = Training(
        Task(lambda: build(model).to(dtype), nn.functional.cross_entropy, data, data), iid, clients, Rand(0)
    )
    start, settings = made.initial(), LocalSettings(Optimizer("sgd", {"lr": LR}), 1, BATCH)

    def planned(client: int) -> LocalWork:
        return Side(client, 0, clients, made.shards[client], settings, made.layout, start, made.rand).work(start)

    works = [planned(client) for client in range(clients)]
    total = torch.zeros_like(start)
    for trained in Cohorts(made.gradient)(works):
        if isinstance(trained, Exception):
            raise trained
        total += trained.parameters
    loop, network = torch.zeros_like(start), build(model).to(dtype)
    for work in works:
        with torch.no_grad():
            for each, value in zip(network.parameters(), made.layout.views(start).values(), strict=True):
                each.copy_(value)
        order = torch.cat(list(work.orders))
        descend(network, data.x[order], data.y[order])
        loop += torch.cat([each.detach().flatten() for each in network.parameters()])
    return float((total - loop).norm() / loop.norm())


def main() -> int:
    options = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    options.add_argument("--work", choices=WORKS, action="append", help="all, if not given")
    options.add_argument("--contender", choices=["ours", "bare"], help=argparse.SUPPRESS)
    options.add_argument("--rounds", type=int, help="of each process")
    options.add_argument("--repeats", type=int, default=5)
    options.add_argument("--processes", type=int, default=1, help="that ours may use; give it rounds enough to begin")
    options.add_argument("--peers", type=Path, help="folder of the peers' scripts")
    for peer in PEERS:
        options.add_argument(f"--{peer}", type=Path, help="interpreter that has it")
    given = options.parse_args()
    torch.set_num_threads(1)
    met = True
    for name in given.work or WORKS:
        work = WORKS[name]
        if given.rounds:
            work = Work(work.model, work.clients, work.examples, work.cohort, given.rounds)
        if given.contender:
            ours(work, given.processes) if given.contender == "ours" else bare(work)
            return 0
        met &= compare(name, work, given)
    for model, clients, examples in (("2nn", 10, 600), ("2nn", 100, 20), ("cnn", 2, 100)):
        for dtype, bound in ((torch.float32, 1e-5), (torch.float64, 1e-10)):
            title = f"{model}, {clients} x {examples}, {str(dtype).removeprefix('torch.')}: distance to the bare loop"
            met &= figure(title, distance(model, clients, examples, dtype), bound, at_least=False)
    return 0 if met else 1


if __name__ == "__main__":
    sys.exit(main())
