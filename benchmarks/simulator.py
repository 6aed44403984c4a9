"""What does simulating a worker cost?

1. Microseconds per worker-step of the engine alone: a compute, an all-reduce of one number, an update and a commit,
   with functions that do nothing, at 1,000 and 10,000 workers.
2. 1,000 workers train the digits MLP (64-64-10), 16 samples a step, with synchronous SGD: worker-steps per second of
   the simulator, everything included, over a plain PyTorch loop that takes the same gradients one after another, in
   turn; and over the simulator's own exact mode.
3. Peak memory of 10,000 workers with a model of about 10,000 parameters, synchronous SGD with momentum.

One torch thread. The full run takes about 2 minutes, `--quick` under 60 s.
"""

from __future__ import annotations

import argparse
import json
import resource
import statistics
import subprocess
import sys
import time
from pathlib import Path

import torch
from figures import figure, quartiles
from torch import nn

from quorate.engines.batching import Batching
from quorate.engines.simulator import Simulator
from quorate.exchange import Exchange
from quorate.node import Node
from quorate.optimizer import Optimizer
from quorate.programs.synchronous_sgd import synchronous_sgd
from quorate.rand import Rand
from quorate.tasks import Data, Task
from quorate.tasks.digits import digits
from quorate.training import Training

BATCH = 16


def nothing(x: torch.Tensor) -> torch.Tensor:
    return x


def engine_alone(workers: int, steps: int) -> float:
    """Return microseconds per worker-step."""

    async def program(node: Node) -> torch.Tensor:
        value = torch.zeros(1)
        for step in range(steps):
            gradient = await node.compute(nothing, value, samples=1)
            total = await node.all_reduce(gradient)
            value = await node.compute(nothing, total)
            node.commit(step + 1, 0.0, {"parameters": value}, {})
        return value

    simulator = Simulator(workers)
    began = time.perf_counter()
    simulator.run(program)
    return (time.perf_counter() - began) / workers / steps * 1e6


def training(workers: int, hidden: int = 64) -> Training:
    """Give every worker 64 digits of its own, drawn with replacement from scikit-learn's 1,437 training digits."""
    task = digits(hidden=hidden)
    chosen = torch.randint(len(task.train), (workers * 64,), generator=Rand(0).fold("bench").generator())
    drawn = Task(task.model, task.loss, Data(task.train.x[chosen], task.train.y[chosen]), task.test, task.metrics)
    return Training(drawn, lambda data, size, rand: list(torch.arange(len(data)).chunk(size)), workers, Rand(0))


def simulated(prepared: Training, steps: int, *, exact: bool) -> float:
    """Return worker-steps per second of the simulator."""
    optimizer = Optimizer("sgd", {"lr": 0.1, "momentum": 0.9})
    simulator = Simulator(prepared.size, batching=Batching(exact=exact))
    began = time.perf_counter()
    simulator.run(
        lambda node: synchronous_sgd(node, prepared, Exchange(), optimizer=optimizer, steps=steps, batch=BATCH)
    )
    return prepared.size * steps / (time.perf_counter() - began)


def one_by_one(prepared: Training, steps: int) -> float:
    """Return worker-steps per second of a plain loop: per worker forward, backward and adding up; one update a step."""
    torch.manual_seed(0)
    model = prepared.task.model()
    parameters = list(model.parameters())
    optimizer = torch.optim.SGD(parameters, lr=0.1, momentum=0.9)
    began = time.perf_counter()
    for step in range(steps):
        optimizer.zero_grad(set_to_none=False)
        for rank in range(prepared.size):
            indices = prepared.batch(rank, step, BATCH).indices
            loss = nn.functional.cross_entropy(model(prepared.train.x[indices]), prepared.train.y[indices])
            (loss / prepared.size).backward()
        optimizer.step()
    return prepared.size * steps / (time.perf_counter() - began)


def memory(workers: int, hidden: int) -> None:
    """Train for three steps, and print this process's peak memory and the model's size."""
    prepared = training(workers, hidden)
    simulated(prepared, 3, exact=False)
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 2**20
    print(json.dumps({"gib": peak, "parameters": prepared.layout.numel}))


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--quick", action="store_true", help="fewer repeats")
    parser.add_argument("--memory", nargs=2, type=int, help=argparse.SUPPRESS)
    options = parser.parse_args()
    torch.set_num_threads(1)
    if options.memory:
        memory(*options.memory)
        return
    repeats = 5 if options.quick else 9

    for workers, steps, target in ((1_000, 20, 40.0), (10_000, 3, 80.0)):
        times = [engine_alone(workers, steps) for _ in range(repeats + 1)][1:]
        low, middle, high = quartiles(times)
        print(f"engine alone, {workers:6,} workers: {middle:6.1f} us per worker-step  [{low:.1f}, {high:.1f}]")
        figure(f"us per worker-step, {workers} workers", middle, target, at_least=False, quartiles=[low, high])

    prepared, steps = training(1_000), 3 if options.quick else 6
    rates: dict[str, list[float]] = {"vectorised": [], "exact": [], "loop": []}
    for _ in range(repeats + 1):
        rates["vectorised"].append(simulated(prepared, steps, exact=False))
        rates["loop"].append(one_by_one(prepared, max(1, steps // 3)))
        rates["exact"].append(simulated(prepared, max(1, steps // 3), exact=True))
    for name in rates:
        rates[name] = rates[name][1:]
        print(f"1,000 workers, {name:10}: {statistics.median(rates[name]):9,.0f} worker-steps/s")
    for peer in ("loop", "exact"):
        ratios = [ours / theirs for ours, theirs in zip(rates["vectorised"], rates[peer], strict=True)]
        low, middle, high = quartiles(ratios)
        print(f"vectorised over {peer}: {middle:.2f}  [{low:.2f}, {high:.2f}]")
        figure(f"1000 workers: vectorised over {peer}", middle, 5.0, quartiles=[low, high])

    command = [sys.executable, str(Path(__file__)), "--memory", "10000", "134"]
    got = json.loads(subprocess.run(command, stdout=subprocess.PIPE, text=True, check=True).stdout)
    print(f"10,000 workers, {got['parameters']:,} parameters: peak {got['gib']:.2f} GiB")
    figure("peak GiB, 10000 workers", got["gib"], 3.0, at_least=False, parameters=got["parameters"])


if __name__ == "__main__":
    main()
