"""How much of a step's CPU time does compression add on a model of 8 million parameters?

Two real ranks on loopback, one thread each, train an MLP of 7,912,458 parameters on noise, batches of 32, SGD with
momentum. All ways take blocks of steps in turn; a block's CPU time is that of all the process's threads. What a way
adds is its CPU time less that of the loop that exchanges gradients uncompressed by all-reduce (`dense`), over the
latter, in the same round. Beside it: the same against the loop that exchanges nothing (`alone`), a naive top-k
(torch.topk of the whole gradient, a mask over all entries, all of them summed), and the steps per second of the
uncompressed loop over those of torch's DDP. `--profile CODEC` shows where the time of one way goes instead. About 4
minutes, `--quick` one.
"""

from __future__ import annotations

import argparse
import cProfile
import itertools
import json
import pstats
import sys
import time
from collections.abc import Callable
from typing import Any

import codings
import torch
import torch.distributed as dist
from figures import figure, quartiles
from labs import run
from torch import nn

from quorate.engines.group import group
from quorate.engines.overlap import Overlap
from quorate.engines.processes import ProcessNode
from quorate.errors import QuorateError
from quorate.exchange import Exchange
from quorate.rand import Rand

SIZES = {"8m": (784, 2048, 2048, 1024, 10), "1m": (784, 1024, 192, 10)}
NAMES = ("int8", "sampled_k", "gaussian_k", "power_sgd")
BATCH = 32


def network(size: str) -> nn.Module:
    """Return an MLP with the same initial parameters on all workers."""
    torch.manual_seed(0)
    widths, layers = SIZES[size], []
    for before, after in itertools.pairwise(widths):
        layers += [nn.Linear(before, after), nn.ReLU()]
    return nn.Sequential(*layers[:-1])


class NaiveTopK:
    """What one writes first: exact top-k with a residual, a mask over all entries, all of them summed."""

    def __init__(self, module: nn.Module, ratio: float) -> None:
        self.parameters = list(module.parameters())
        self.residual = torch.zeros(sum(each.numel() for each in self.parameters))
        self.k = round(ratio * len(self.residual))

    def __call__(self) -> None:
        """Exchange the gradients after a backward pass."""
        whole = torch.cat([each.grad.reshape(-1) for each in self.parameters]) + self.residual
        mask = torch.zeros_like(whole)
        mask[whole.abs().topk(self.k).indices] = 1
        said = whole * mask
        self.residual = whole - said
        dist.all_reduce(said)
        said /= dist.get_world_size()
        start = 0
        for each in self.parameters:
            each.grad.copy_(said[start : start + each.numel()].view_as(each))
            start += each.numel()


def contender(name: str, size: str, node: ProcessNode) -> Callable[[torch.Tensor, torch.Tensor], None]:
    """Return one step of a way to train."""
    module = network(size)
    called: nn.Module = module
    after: Callable[[], None] | None = None
    if name == "ddp":
        called = nn.parallel.DistributedDataParallel(module)
    elif name == "naive top-k":
        after = NaiveTopK(module, codings.RATIO)
    elif name != "alone":
        Overlap(module, node, Exchange(codings.build("identity" if name == "dense" else name)), rand=Rand(0))
    optimizer = torch.optim.SGD(module.parameters(), 0.01, momentum=0.9)

    def step(x: torch.Tensor, y: torch.Tensor) -> None:
        optimizer.zero_grad()
        nn.functional.cross_entropy(called(x), y).backward()
        if after is not None:
            after()
        optimizer.step()

    return step


def worker(size: str, pairs: int, count: int, names: list[str]) -> None:
    """Time all ways as one of the ranks; rank 0 prints a JSON line for each."""
    torch.set_num_threads(1)
    with group(timeout=120) as node:
        generator = torch.Generator().manual_seed(node.rank)
        batches = [
            (torch.randn(BATCH, 784, generator=generator), torch.randint(10, (BATCH,), generator=generator))
            for _ in range(8)
        ]
        steps, found = {}, {}
        for name in names:
            try:
                steps[name] = contender(name, size, node)
                for at in range(3):
                    steps[name](*batches[at])
                found[name] = {"cpu": [], "wall": []}
            except QuorateError as error:
                steps.pop(name, None)
                found[name] = {"skipped": " ".join(str(error).split())[:160]}
        for pair in range(pairs):
            for name in list(steps)[:: 1 if pair % 2 else -1]:
                dist.barrier()
                cpu, wall = time.process_time(), time.perf_counter()
                for at in range(count):
                    steps[name](*batches[at % 8])
                found[name]["wall"].append((time.perf_counter() - wall) / count)
                dist.barrier()
                found[name]["cpu"].append((time.process_time() - cpu) / count)
        if node.rank == 0:
            for name, told in found.items():
                print(json.dumps({"name": name} | told), flush=True)
        steps.clear()  # DDP's object has to go before the group, or gloo may abort


def profile(size: str, count: int, name: str) -> None:
    """Print where rank 0 spends its time in steps of one way."""
    torch.set_num_threads(1)
    with group(timeout=120) as node:
        step = contender(name, size, node)
        x, y = torch.randn(BATCH, 784), torch.randint(10, (BATCH,))
        for _ in range(5):
            step(x, y)
        profiler = cProfile.Profile()
        dist.barrier()
        profiler.enable()
        for _ in range(count):
            step(x, y)
        profiler.disable()
        dist.barrier()
        if node.rank == 0:
            stats = pstats.Stats(profiler, stream=sys.stderr)
            stats.sort_stats("tottime").print_stats(25)


def report(found: dict[str, dict[str, Any]], size: str) -> None:
    """Print the table, and the figures."""
    print(f"{'':22}{'CPU ms':>9}{'wall ms':>9}{'added to dense':>16}{'quartiles':>19}{'added to alone':>16}")
    for name, told in found.items():
        if "skipped" in told:
            print(f"{name:22} left out: {told['skipped']}")
            continue
        cpu, wall = (1e3 * quartiles(told[key])[1] for key in ("cpu", "wall"))
        added = {
            rival: quartiles([own / other - 1 for own, other in zip(told["cpu"], found[rival]["cpu"], strict=True)])
            for rival in ("alone", "dense")
        }
        low, middle, high = added["dense"]
        spread = f"[{low:.0%}, {high:.0%}]"
        print(f"{name:22}{cpu:9.1f}{wall:9.1f}{middle:16.0%}{spread:>19}{added['alone'][1]:16.0%}")
        if name not in ("alone", "ddp", "dense"):
            figure(
                f"CPU time added to a dense step, model of {size}: {name}",
                middle,
                0.25 if name in NAMES else None,
                at_least=False,
                quartiles=[low, high],
                over_alone=added["alone"][1],
            )
    if {"dense", "ddp"} <= found.keys():
        pairs = zip(found["ddp"]["wall"], found["dense"]["wall"], strict=True)
        low, middle, high = quartiles([theirs / ours for theirs, ours in pairs])
        figure(f"uncompressed Overlap over DDP, steps/s, model of {size}", middle, 0.95, quartiles=[low, high])


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--quick", action="store_true", help="fewer and shorter blocks")
    parser.add_argument("--codecs", nargs="+", default=list(NAMES))
    parser.add_argument("--model", choices=list(SIZES), default="8m")
    parser.add_argument("--profile", metavar="CODEC", help="show where the time of one way goes")
    parser.add_argument("--worker", nargs="+", help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.worker:
        what, size, *numbers = options.worker
        if what == "profile":
            profile(size, int(numbers[0]), numbers[1])
        else:
            worker(size, int(numbers[0]), int(numbers[1]), numbers[2:])
        return
    if options.profile:
        run(__file__, ["profile", options.model, 40, options.profile], size=2)
        return
    pairs, count = (3, 5) if options.quick else (9, 12)
    names = ["alone", "dense", "ddp", "naive top-k", *options.codecs]
    lines = run(__file__, ["time", options.model, pairs, count, *names], size=2)
    report({line.pop("name"): line for line in lines}, options.model)


if __name__ == "__main__":
    main()
