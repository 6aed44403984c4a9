"""Is exchanging gradients through Quorate as fast as torch's DDP, with the same bits?

Two processes train the same model on the same batches, by `Overlap` and by DDP in turn, in blocks of steps; a block of
each makes a pair, whose order alternates. The figure is the median over pairs of (steps/s of Overlap) / (steps/s of
DDP). Afterwards the parameters must be equal to the bit.

On loopback, and, if a tool that lays out network namespaces is given by `--netlab` (run as root), at 1 Gbit/s and
0.1 ms. The full run takes about 3 minutes, `--quick` under 60 s.
"""

from __future__ import annotations

import argparse
import json
import os
import shutil
import socket
import subprocess
import sys
import time
from pathlib import Path

import torch
from figures import figure, quartiles
from torch import nn

from quorate.engines.group import group
from quorate.engines.overlap import Overlap

MODELS = {
    "mlp": lambda: nn.Sequential(
        nn.Flatten(), nn.Linear(784, 1024), nn.ReLU(), nn.Linear(1024, 192), nn.ReLU(), nn.Linear(192, 10)
    ),
    "cnn": lambda: nn.Sequential(
        *[nn.Conv2d(3, 32, 3, 2, 1), nn.ReLU(), nn.Conv2d(32, 64, 3, 2, 1), nn.ReLU(), nn.Conv2d(64, 128, 3, 2, 1)],
        *[nn.ReLU(), nn.Flatten(), nn.Linear(2048, 96), nn.ReLU(), nn.Linear(96, 10)],
    ),
}
SHAPES = {"mlp": (784,), "cnn": (3, 32, 32)}


def contender(name: str, model: str, node: object) -> tuple[nn.Module, nn.Module, torch.optim.Optimizer]:
    """Return the module to call, the module that holds the parameters, and its optimizer."""
    torch.manual_seed(0)
    module = MODELS[model]()
    called = nn.parallel.DistributedDataParallel(module) if name == "ddp" else module
    if name == "quorate":
        Overlap(module, node)
    return called, module, torch.optim.SGD(module.parameters(), 0.05, momentum=0.9)


def worker(model: str, pairs: int, seconds: float) -> None:
    """Time both contenders as one of the two ranks; rank 0 prints a JSON line."""
    torch.set_num_threads(1)
    with group(timeout=120) as node:
        generator = torch.Generator().manual_seed(node.rank)
        xs = torch.randn(8, 32, *SHAPES[model], generator=generator)
        ys = torch.randint(0, 10, (8, 32), generator=generator)
        runs = {name: contender(name, model, node) for name in ("quorate", "ddp")}
        done = dict.fromkeys(runs, 0)

        def block(name: str, steps: int) -> float:
            called, _, optimizer = runs[name]
            torch.distributed.barrier()
            began = time.perf_counter()
            for _ in range(steps):
                at = done[name] % 8
                optimizer.zero_grad()
                nn.functional.cross_entropy(called(xs[at]), ys[at]).backward()
                optimizer.step()
                done[name] += 1
            torch.distributed.barrier()
            return steps / (time.perf_counter() - began)

        rate = min(block(name, 10) for name in runs)
        steps = torch.tensor(max(4, int(seconds * rate)))
        torch.distributed.broadcast(steps, 0)
        rates: dict[str, list[float]] = {name: [] for name in runs}
        for pair in range(pairs):
            for name in sorted(runs, reverse=pair % 2 == 0):
                rates[name].append(block(name, int(steps)))
        ours, theirs = (torch.cat([each.detach().reshape(-1) for each in runs[n][1].parameters()]) for n in runs)
        if node.rank == 0:
            print(json.dumps({"rates": rates, "equal": torch.equal(ours, theirs), "parameters": len(ours)}), flush=True)
        runs.clear()  # DDP's object has to go before the group, or gloo may abort


def free_port() -> int:
    """Return a TCP port that nobody listens on."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


def measure(network: str, netlab: str | None, arguments: list[str]) -> dict[str, object]:
    """Run both ranks on a network; return what rank 0 printed."""
    command = [sys.executable, __file__, "--worker", *arguments]
    environment = os.environ | {"OMP_NUM_THREADS": "1"}
    if network == "loopback":
        address = {"WORLD_SIZE": "2", "MASTER_ADDR": "127.0.0.1", "MASTER_PORT": str(free_port())}
        ranks = [
            subprocess.Popen(
                command, env=environment | address | {"RANK": str(rank)}, stdout=subprocess.PIPE, text=True
            )
            for rank in range(2)
        ]
        printed = "".join(rank.communicate()[0] for rank in ranks)
    else:
        lab = [str(netlab)]
        subprocess.run([*lab, "up", "2", "--rate", "1gbit", "--delay", "100us", "--lab", "qbench"], check=True)
        try:
            printed = subprocess.run(
                [*lab, "each", "--raw", "--lab", "qbench", "--", *command],
                env=environment,
                stdout=subprocess.PIPE,
                text=True,
                check=True,
            ).stdout
        finally:
            subprocess.run([*lab, "down", "--lab", "qbench"], check=False)
    lines = [line for line in printed.splitlines() if line.startswith("{")]
    return dict(json.loads(lines[0]))


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--quick", action="store_true", help="fewer and shorter blocks")
    parser.add_argument("--netlab", default=shutil.which("netlab"), help="command that lays out network namespaces")
    parser.add_argument("--worker", nargs=3, metavar=("MODEL", "PAIRS", "SECONDS"), help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.worker:
        worker(options.worker[0], int(options.worker[1]), float(options.worker[2]))
        return
    pairs, seconds = (7, 0.35) if options.quick else (15, 1.0)
    networks = ["loopback"] + (["1 Gbit/s, 0.1 ms"] if options.netlab and Path(options.netlab).exists() else [])
    if len(networks) == 1:
        print("no --netlab: the shaped network is left out")
    print(f"{'model, network':28} {'Overlap steps/s':>16} {'DDP steps/s':>12} {'ratio':>7}  quartiles     same bits")
    for network in networks:
        for model in MODELS:
            got = measure(network, options.netlab, [model, str(pairs), str(seconds)])
            rates = got["rates"]
            assert isinstance(rates, dict)
            ratios = [ours / theirs for ours, theirs in zip(rates["quorate"], rates["ddp"], strict=True)]
            low, middle, high = quartiles(ratios)
            ours, theirs = quartiles(rates["quorate"])[1], quartiles(rates["ddp"])[1]
            label = f"{model}, {network}"
            print(f"{label:28} {ours:16.1f} {theirs:12.1f} {middle:7.3f}  [{low:.3f}, {high:.3f}]  {got['equal']}")
            figure(f"overlap over ddp: {label}", middle, 0.95, quartiles=[low, high], pairs=pairs, steps_per_s=ours)
            figure(f"overlap equals ddp to the bit: {label}", float(bool(got["equal"])), 1.0)


if __name__ == "__main__":
    main()
