"""What do ten thousand phones cost to simulate, and how much sooner does an asynchronous server reach the target?

10,000 clients of six MNIST images each (Dirichlet(0.5)), there for some hours of each day, with speeds that differ
(log-normal) and links of four kinds; McMahan's 2NN. Part 1: 200 synchronous rounds, cohort 100: wall seconds, peak
memory, and what the simulation takes beside training. Part 2: virtual hours until the test accuracy is first reached,
of a synchronous server, one that asks more than it needs, one with a deadline that adds late replies, and FedBuff.

`--data` (or QUORATE_DATA) names the folder of data sets; `--quick` is a small version of both parts.
"""

from __future__ import annotations

import argparse
import contextlib
import json
import os
import resource
import time
from functools import partial
from pathlib import Path
from typing import Any

import torch

from quorate.algorithms.fed_avg import FedAvg
from quorate.availability.day_and_night import day_and_night
from quorate.cluster import Cluster, Distribution, Exceptional
from quorate.engines import Forgetful
from quorate.engines.cohorts import Cohorts
from quorate.engines.federation_simulator import FederationSimulator
from quorate.exchange import Exchange
from quorate.federated.setup import client_of
from quorate.optimizer import Optimizer
from quorate.partitions.dirichlet import dirichlet
from quorate.partitions.iid import iid
from quorate.programs.fed_buff import fed_buff
from quorate.programs.federated import federated
from quorate.rand import Rand
from quorate.tasks.mnist import mnist
from quorate.trace import Trace
from quorate.training import Training

LINKS = (("1 Mbit/s", "5 Mbit/s"), ("5 Mbit/s", "20 Mbit/s"), ("10 Mbit/s", "50 Mbit/s"), ("50 Mbit/s", "100 Mbit/s"))


def phones(size: int) -> Cluster:
    """Return machines whose slowest tenth is ten times as slow as the fastest, on links of four kinds."""
    nodes = [
        Exceptional.model_validate({"ranks": tuple(range(kind, size, len(LINKS))), "uplink": up, "downlink": down})
        for kind, (up, down) in enumerate(LINKS)
    ]
    server = Exceptional.model_validate({"ranks": (size,), "uplink": "10 Gbit/s", "downlink": "10 Gbit/s"})
    speeds = Distribution(name="lognormal", median=0.05, sigma=1.0)
    return Cluster(seconds_per_sample=speeds, latency=0.05, node=(*nodes, server))


class Reached(Forgetful):
    """A recorder that evaluates, and remembers when a target was first reached.

    Args:
        training: of the task.
        every: rounds between two evaluations.
        target: test accuracy.
    """

    def __init__(self, training: Training, every: int, target: float) -> None:
        self._training, self._every, self._target = training, every, target
        self.best, self.seconds, self.round = 0.0, None, None

    def commit(self, rank, step, now, loss, shared, own, metrics=None) -> None:  # type: ignore[no-untyped-def]
        """See `Recorder`."""
        if step % self._every == 0:
            accuracy = self._training.evaluate(shared["parameters"])["accuracy"]
            self.best = max(self.best, accuracy)
            if accuracy >= self._target and self.seconds is None:
                self.seconds, self.round = now, step
                raise Enough


class Enough(Exception):
    """The target is reached."""


class Timed:
    """Local work, and how long it takes on this machine."""

    def __init__(self, training: Training) -> None:
        self._train, self.seconds, self.clients, self.passes = Cohorts(training.gradient), 0.0, 0, 0

    def __call__(self, works: Any) -> Any:
        """See `Train`."""
        began = time.perf_counter()
        found = self._train(works)
        self.seconds += time.perf_counter() - began
        self.clients += len(works)
        self.passes += 1
        return found


def simulated(program: Any, training: Training, cluster: Cluster, recorder: Any = None) -> dict[str, Any]:
    """Run a program; return what it took."""
    size, trace, train = training.size, Trace(training.size + 1), Timed(training)
    began, exchange = time.perf_counter(), Exchange()
    clients = client_of(program, training, exchange, size)
    simulator = FederationSimulator(
        clients,
        training.shards,
        cluster,
        rand=training.rand,
        recorder=recorder,
        trace=trace,
        train=train,
        availability=partial(day_and_night, there=36_000.0),
    )
    with contextlib.suppress(Enough):
        simulator.run(lambda server: program(server, training, exchange))
    wall = time.perf_counter() - began
    return {
        "wall_seconds": wall,
        "training_seconds": train.seconds,
        "beside_ms_per_client": 1e3 * (wall - train.seconds) / max(1, train.clients),
        "clients": train.clients,
        "clients_a_pass": train.clients / max(1, train.passes),
        "virtual_hours": simulator.now() / 3600,
        "gigabytes": trace.bytes / 1e9,
        "peak_gigabytes": resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1e6,
    }


def main() -> None:
    """Print one line of JSON for each run."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--data", type=Path, default=os.environ.get("QUORATE_DATA"))
    parser.add_argument("--quick", action="store_true")
    parser.add_argument("--parts", nargs="*", default=["scale", "target"])
    parser.add_argument("--target", type=float, default=0.9)
    arguments = parser.parse_args()
    torch.set_num_threads(1)
    size, rounds, cohort = (1_000, 20, 50) if arguments.quick else (10_000, 200, 100)
    task = mnist(data=arguments.data, model="2nn")
    common = {"algorithm": FedAvg(), "optimizer": Optimizer("sgd", {"lr": 0.1}), "batch": 10, "epochs": 1}
    if "scale" in arguments.parts:
        training = Training(task, partial(dirichlet, alpha=0.5), size, Rand(0))
        program = partial(federated, **common, rounds=rounds, cohort=cohort)
        measured = simulated(program, training, phones(size))
        print(json.dumps({"part": "scale", "clients": size, "rounds": rounds, "cohort": cohort} | measured), flush=True)
    if "target" not in arguments.parts:
        return
    size = 500 if arguments.quick else 1_000
    training = Training(task, iid, size, Rand(0))
    many = {"rounds": 2_000, "epochs": 5}
    sync = partial(federated, **common | many, cohort=20)
    ways = {
        "synchronous": sync,
        "over-selection 30 %": partial(sync, over_selection=0.3),
        "deadline, late ones added": partial(sync, deadline=60.0, late="buffer", quorum=5),
        "FedBuff": partial(fed_buff, **common | many, concurrency=20, buffer=5),
    }
    for name, program in ways.items():
        recorder = Reached(training, 1 if name != "FedBuff" else 4, arguments.target)
        measured = simulated(program, training, phones(size), recorder)
        facts = {"part": "target", "way": name, "target": arguments.target, "seconds": recorder.seconds}
        print(json.dumps(facts | {"round": recorder.round, "best": recorder.best} | measured), flush=True)


if __name__ == "__main__":
    main()
