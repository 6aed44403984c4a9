"""How near is the simulator's virtual clock to real processes on a real, shaped network?

For each network, number of ranks and program, both train the same model: 101,000 parameters whose gradient is a pause
of 10 ms, so that what is compared is the network and the engines, not this machine's cores. The figure is the error of
the predicted seconds per step against the median over the real steps, relative to the latter. Predictions are made with
the rates and delays that the network was asked for, `transport = "gloo"`, and the seconds that a gradient and an update
took each worker before it talked to anybody; nothing else is fitted to the run.

Needs a tool that lays out network namespaces (`--netlab COMMAND`, run as root). The full run takes about 15 minutes,
`--quick` about 3.
"""

from __future__ import annotations

import argparse
import itertools
import json
import os
import shutil
import statistics
import subprocess
import sys
import time
from collections.abc import Callable
from functools import partial
from typing import Any

import torch
from figures import figure
from torch import Tensor, nn

from quorate.cluster import Cluster
from quorate.engines.group import group
from quorate.engines.simulator import Simulator
from quorate.exchange import Exchange
from quorate.gradient import Batch
from quorate.node import Node
from quorate.optimizer import Optimizer
from quorate.partitions.iid import iid
from quorate.periods.every import every
from quorate.programs.gossip import gossip
from quorate.programs.local_sgd import local_sgd
from quorate.programs.parameter_server import parameter_server
from quorate.programs.synchronous_sgd import synchronous_sgd
from quorate.rand import Rand
from quorate.tasks import Data, Task
from quorate.topologies.ring import ring
from quorate.training import Training

NETWORKS = {"1gbit/0.1ms": ("1gbit", 1e-4), "100mbit/1ms": ("100mbit", 1e-3), "10mbit/10ms": ("10mbit", 1e-2)}
RATES = {"1gbit": 125e6, "100mbit": 12.5e6, "10mbit": 1.25e6, "1mbit": 0.125e6}
TENTH = {"1gbit": "100mbit", "100mbit": "10mbit", "10mbit": "1mbit"}
PAUSE, PERIOD, SLOW = 0.010, 4, 1
PROGRAMS: dict[str, Callable[..., Any]] = {
    "ring all-reduce": synchronous_sgd,
    "one server": partial(parameter_server, servers=1),
    "two servers": partial(parameter_server, servers=2),
    "gossip": partial(gossip, topology=ring),
    "local SGD": partial(local_sgd, period=partial(every, tau=PERIOD)),
}
WARM_UP = 4  # steps, which end with a meeting of local SGD


class Paused:
    """A gradient of nothing, after a pause, that notes when it was asked for."""

    def __init__(self, numel: int, clock: Callable[[], float], pause: float) -> None:
        self._zero, self._clock, self._pause = torch.zeros(numel), clock, pause
        self.began: list[float] = []

    def __call__(self, parameters: Tensor, batch: Batch) -> tuple[float, Tensor]:
        """See `quorate.gradient.Gradient`."""
        self.began.append(self._clock())
        time.sleep(self._pause)
        return 1.0, self._zero.clone()


def training(size: int) -> Training:
    """Return a model of 101,000 parameters on data that is never looked at."""
    data = Data(torch.zeros(64, 1), torch.zeros(64))
    task = Task(lambda: nn.Linear(100, 1000), lambda output, y: output.mean(), data, data)
    return Training(task, iid, size, Rand(0))


def bound(name: str, made: Training, steps: int, node: Node) -> Any:
    """Return a program of one node, as a coroutine."""
    sgd = Optimizer("sgd", {"lr": 0.1})
    return PROGRAMS[name](node, made, Exchange(), optimizer=sgd, steps=steps, batch=1)


def per_step(began: list[float]) -> float:
    """Return seconds per step, of the periods of local SGD the mean."""
    times = began[WARM_UP:]
    periods = [(b - a) / PERIOD for a, b in zip(times[:-PERIOD:PERIOD], times[PERIOD::PERIOD], strict=False)]
    return statistics.median(periods)


def alone(steps: int) -> float:
    """Return the seconds of a step that meets nobody."""
    made = training(1)
    made.gradient = taken = Paused(made.layout.numel, time.perf_counter, PAUSE)  # type: ignore[assignment]
    update = Optimizer("sgd", {"lr": 0.1}).update(made.layout)
    parameters, state = made.initial().clone(), {}
    for step in range(steps):
        _, gradient = taken(parameters, made.batch(0, step, 1))
        parameters, state = update(parameters, gradient, state)
    return statistics.median(b - a for a, b in itertools.pairwise(taken.began))


def worker(steps: int) -> None:
    """Run all programs as one rank; rank 0 prints seconds per step by program, and the longest of workers alone."""
    torch.set_num_threads(1)
    found = {}
    with group(timeout=600) as node:
        torch.distributed.barrier()
        longest = torch.tensor(alone(steps))
        torch.distributed.all_reduce(longest, torch.distributed.ReduceOp.MAX)
        found["alone"] = float(longest)
        for name in PROGRAMS:
            made = training(node.size)
            made.gradient = taken = Paused(made.layout.numel, time.perf_counter, PAUSE)  # type: ignore[assignment]
            torch.distributed.barrier()
            node.run(bound(name, made, steps, node))
            found[name] = per_step(taken.began)
        if node.rank == 0:
            print(json.dumps(found), flush=True)


def predict(name: str, size: int, network: str, slow: bool, steps: int, pause: float) -> float:
    """Return the simulator's seconds per step of rank 0."""
    rate, delay = NETWORKS[network]
    nodes = [{"ranks": (SLOW,), "uplink": RATES[TENTH[rate]], "downlink": RATES[TENTH[rate]]}] if slow else []
    cluster = Cluster(
        seconds_per_sample=pause,
        uplink=RATES[rate],
        downlink=RATES[rate],
        latency=delay / 2,
        node=tuple(nodes),
        transport="gloo",
    )
    made, times = training(size), []
    made.gradient = Paused(made.layout.numel, lambda: 0.0, 0.0)  # type: ignore[assignment]
    simulator = Simulator(size, cluster)

    class Noted:
        """Note when rank 0 commits."""

        def restore(self, rank: int, shared: Any, own: Any) -> Any:
            return 0, shared, own

        def saves(self, step: int) -> bool:
            return False

        def commit(self, rank: int, step: int, now: float, *_: Any) -> None:
            if rank == 0:
                times.append(now)

        def leave(self, rank: int, now: float) -> None:
            pass

    simulator.recorder = Noted()
    simulator.run(partial(bound, name, made, steps))
    return per_step([0.0, *times])


def measure(size: int, network: str, slow: bool, steps: int, netlab: str) -> dict[str, float]:
    """Run real processes; return seconds per step by program."""
    rate, delay = NETWORKS[network]
    lab = ["--lab", "qfidelity"]
    subprocess.run([netlab, "up", str(size), "--rate", rate, "--delay", f"{delay * 1e6:.0f}us", *lab], check=True)
    try:
        if slow:
            subprocess.run([netlab, "set", str(SLOW), "--rate", TENTH[rate], *lab], check=True)
        command = [sys.executable, __file__, "--worker", str(steps)]
        environment = os.environ | {"OMP_NUM_THREADS": "1"}
        done = subprocess.run(
            [netlab, "each", "--raw", *lab, "--", *command],
            env=environment,
            stdout=subprocess.PIPE,
            text=True,
            check=True,
        )
    finally:
        subprocess.run([netlab, "down", *lab], check=False)
    return dict(json.loads(next(line for line in done.stdout.splitlines() if line.startswith("{"))))


def main() -> None:
    """Compare all cases."""
    args = argparse.ArgumentParser(description=__doc__)
    args.add_argument("--quick", action="store_true", help="100 Mbit/s only")
    args.add_argument("--netlab", default=shutil.which("netlab"), help="command that lays out network namespaces")
    args.add_argument("--networks", nargs="+", default=list(NETWORKS), choices=list(NETWORKS))
    args.add_argument("--steps", type=int, default=20, help="where a step takes seconds, only 9")
    args.add_argument("--worker", type=int, help=argparse.SUPPRESS)
    options = args.parse_args()
    if options.worker:
        worker(options.worker)
        return
    if not options.netlab:
        sys.exit("error: a shaped network is needed\nhint: --netlab COMMAND")
    networks = ["100mbit/1ms"] if options.quick else options.networks
    errors = []
    for network in networks:
        for size in (2, 4):
            for slow in (False, True):
                steps = options.steps if not (slow and network == "10mbit/10ms") else WARM_UP + PERIOD + 1
                real = measure(size, network, slow, steps, options.netlab)
                pause = real.pop("alone")
                for name, seconds in real.items():
                    predicted = predict(name, size, network, slow, steps, pause)
                    errors.append(abs(predicted / seconds - 1))
                    links = "one link 10x slower" if slow else "equal links"
                    print(
                        f"{network:12} {size} ranks  {links:20} {name:16} real {seconds * 1e3:9.2f} ms"
                        f"  predicted {predicted * 1e3:9.2f} ms  {predicted / seconds - 1:+7.1%}",
                        flush=True,
                    )
    figure("median absolute error of seconds per step", statistics.median(errors), 0.10, at_least=False)
    figure("largest absolute error of seconds per step", max(errors), 0.25, at_least=False, cases=len(errors))


if __name__ == "__main__":
    main()
