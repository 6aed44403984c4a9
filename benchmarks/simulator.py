"""What does simulating a worker cost?

1. Microseconds per worker-step of the engine alone: a compute, an all-reduce of one number, an update and a commit,
   with functions that do nothing, at 1,000 and 10,000 workers.
2. 1,000 workers train the digits MLP (64-64-10) with synchronous SGD, vectorised, over the same simulation one by one
   (`batching = "exact"`), in turn: worker-steps per second, all included. Once with scikit-learn's 1,437 training
   digits dealt to the workers, one or two each, as `quorate run recipes/first_run.toml --simulate 1000` does; once with
   16 samples a step. For information, over a plain PyTorch loop with no engine at all, too: forward and backward per
   worker, one optimizer step for all.
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
from quorate.partitions.iid import iid
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


def dealt(workers: int) -> Training:
    """Deal scikit-learn's training digits to the workers."""
    return Training(digits(), iid, workers, Rand(0))


def drawn(workers: int, hidden: int = 64) -> Training:
    """Give every worker 64 digits of its own, drawn with replacement."""
    task = digits(hidden=hidden)
    chosen = torch.randint(len(task.train), (workers * 64,), generator=Rand(0).fold("bench").generator())
    data = Data(task.train.x[chosen], task.train.y[chosen])
    own = Task(task.model, task.loss, data, task.test, task.metrics)
    return Training(own, lambda data, size, rand: list(torch.arange(len(data)).chunk(size)), workers, Rand(0))


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
    prepared = drawn(workers, hidden)
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

    steps = 6 if options.quick else 12
    for name, prepared in (("1-2 digits each", dealt(1_000)), ("16 digits a step", drawn(1_000))):
        rates: dict[str, list[float]] = {"vectorised": [], "one by one": [], "plain loop": []}
        for _ in range(repeats + 1):
            rates["vectorised"].append(simulated(prepared, steps, exact=False))
            rates["one by one"].append(simulated(prepared, steps // 3, exact=True))
            rates["plain loop"].append(one_by_one(prepared, steps // 3))
        print(
            f"1,000 workers, {name}: "
            + ", ".join(f"{k} {1e6 / statistics.median(v[1:]):.1f} us" for k, v in rates.items())
        )
        for peer, target in (("one by one", 5.0), ("plain loop", None)):
            ratios = [ours / theirs for ours, theirs in zip(rates["vectorised"][1:], rates[peer][1:], strict=True)]
            low, middle, high = quartiles(ratios)
            print(f"    vectorised over {peer}: {middle:.2f}  [{low:.2f}, {high:.2f}]")
            figure(f"1000 workers, {name}: vectorised over {peer}", middle, target, quartiles=[low, high])

    command = [sys.executable, str(Path(__file__)), "--memory", "10000", "134"]
    got = json.loads(subprocess.run(command, stdout=subprocess.PIPE, text=True, check=True).stdout)
    print(f"10,000 workers, {got['parameters']:,} parameters: peak {got['gib']:.2f} GiB")
    figure("peak GiB, 10000 workers", got["gib"], 3.0, at_least=False, parameters=got["parameters"])


if __name__ == "__main__":
    main()
