"""How long does each sparsifier take to choose k = 0.001 d entries, against torch.topk, and does it choose well?

Every size and kind of numbers is given to all sparsifiers and to `x.abs().topk(k)` in turn, on one and on two threads.
"gradient" is what error feedback holds after ten steps of an MLP of that size on MNIST, or, without `--data`, on
scikit-learn's digits. Energy is the sum of squares of the chosen entries over that of the k largest. `--training`
trains with each sparsifier in error feedback instead, and tells chosen / k and energy along the run. Full runs take 5
minutes each, `--quick` about one. On a busy machine, `--cpu` counts the process's CPU time. `--device cuda` times sizes
up to 5e8 on a GPU instead, by the GPU's own events, with the kernels and without, and the quantisers that have some.
"""

from __future__ import annotations

import argparse
import os
import time
from collections.abc import Callable
from pathlib import Path

import codings
import torch
from figures import figure, quartiles
from torch import Tensor, nn

from quorate.codecs._sparsifier import count
from quorate.codecs.error_feedback import sparsifier_of
from quorate.codecs.random_k import distinct
from quorate.codecs.threshold import Threshold
from quorate.partitions.iid import iid
from quorate.rand import At, Rand
from quorate.tasks import Task
from quorate.tasks.cifar10 import cifar10
from quorate.tasks.digits import digits
from quorate.tasks.mnist import mnist
from quorate.training import Training

RATIO = codings.RATIO
SIZES = (100_000, 1_000_000, 10_000_000, 25_000_000)
KINDS = ("normal", "laplace", "t3", "gradient")
TIMED = ("top_k", "sampled_k", "gaussian_k", "dgc_sample", "redsync", "block_top_k", "threshold", "random_k")
BEST, FASTER = "sampled_k", 5.0
FEWEST, MOST, KEPT = 2 / 3, 4 / 3, 0.97
LEARNING_RATE, BATCH = 0.1, 32


def chooser(name: str, x: Tensor) -> Callable[[At], Tensor]:
    """Return what a sparsifier does to choose entries of x, of shape (d,)."""
    if name == "torch.topk":
        k = count(RATIO, len(x))
        return lambda at: x.abs().topk(k, sorted=False).indices
    if name == "threshold":  # one that k entries exceed
        largest = x.abs().topk(count(RATIO, len(x)) + 1).values
        limit = Threshold(float(largest[-1]))
        return lambda at: limit.select(x, at)
    if name == "random_k":
        return lambda at: distinct(count(RATIO, len(x)), len(x), at.shared)
    codec = sparsifier_of(codings.build(name, ratio=RATIO))
    assert codec is not None
    return lambda at: codec.select(x, at)


def wide(task: Task, d: int) -> nn.Module:
    """Return an MLP for a task's inputs with two equal hidden layers and d parameters, or a few more."""
    inputs = task.train.x[0].numel()
    hidden = next(h for h in range(1, d) if (inputs + 1) * h + (h + 1) * h + 10 * (h + 1) >= d)
    layers = [nn.Linear(inputs, hidden), nn.ReLU(), nn.Linear(hidden, hidden), nn.ReLU(), nn.Linear(hidden, 10)]
    return nn.Sequential(*layers)


class Run:
    """One worker that trains by what a sparsifier chooses of its gradients and what it has left out before."""

    def __init__(self, task: Task) -> None:
        self.training = Training(task, iid, 1, Rand(0))
        self.parameters = self.training.initial().clone()
        self.residual = torch.zeros_like(self.parameters)
        self.step = 0

    def compensated(self) -> Tensor:
        """Add the next gradient to the residual, and return it."""
        _, gradient = self.training.gradient(self.parameters, self.training.batch(0, self.step, BATCH))
        self.step += 1
        return self.residual.add_(gradient)

    def say(self, chosen: Tensor) -> None:
        """Step along the chosen entries."""
        self.parameters = self.parameters.index_add(0, chosen, self.residual[chosen], alpha=-LEARNING_RATE)
        self.residual[chosen] = 0


def numbers(kind: str, d: int, task: Task, device: str = "cpu") -> Tensor:
    """Return (d,) numbers of a distribution, or of a gradient with what error feedback has left over."""
    generator = Rand(0).fold(kind, d).generator(device)

    def normal() -> Tensor:
        return torch.randn(d, generator=generator, device=device)

    if kind == "gradient":
        run = Run(Task(lambda: wide(task, d), task.loss, task.train, task.test))
        for _ in range(10):
            x = run.compensated().clone()
            run.say(x.abs().topk(count(RATIO, len(x))).indices)
        return x[:d].clone()
    if kind == "laplace":
        return torch.empty(d, device=device).exponential_(generator=generator).mul_(normal().sign())
    if kind == "t3":
        return normal() / ((normal().square() + normal().square() + normal().square()) / 3).sqrt()
    return normal()


def timed(x: Tensor, repeats: int, clock: Callable[[], float]) -> dict[str, list[float]]:
    """Return seconds of each way, all in turn; a first round is a warm-up."""
    ways = {name: chooser(name, x) for name in ("torch.topk", *TIMED)}
    taken: dict[str, list[float]] = {name: [] for name in ways}
    for repeat in range(repeats + 1):
        for name in ways if repeat % 2 else reversed(ways):
            began = clock()
            ways[name](At(repeat, 0, 1, Rand(0)))
            if repeat:
                taken[name].append(clock() - began)
    return taken


def quality(x: Tensor, chosen: Tensor, most: Tensor) -> tuple[float, float]:
    """Return chosen / k and the energy, against that of the k largest absolute values."""
    return len(chosen) / len(most), float(x[chosen].double().square().sum() / most.double().square().sum())


def compare(
    x: Tensor, kind: str, label: str, repeats: int, clock: Callable[[], float] = time.perf_counter, device: str = "cpu"
) -> None:
    """Time and judge all ways on x; print a table and a figure."""
    d, taken = len(x), timed(x, repeats, clock)
    low, base, high = quartiles(taken["torch.topk"])
    most = x.abs().topk(count(RATIO, d)).values
    judged = {name: quality(x, chooser(name, x)(At(0, 0, 1, Rand(0))), most) for name in TIMED}
    print(f"\n{d} {kind}, {label}: torch.topk {1e3 * base:.3f} ms [{1e3 * low:.3f}, {1e3 * high:.3f}]")
    faster = {}
    for name in TIMED:
        low, middle, high = (1e3 * value for value in quartiles(taken[name]))
        faster[name] = 1e3 * base / middle
        chosen, energy = judged[name]
        print(
            f"  {name:12} {middle:9.3f} ms [{low:.3f}, {high:.3f}] {faster[name]:7.1f} times faster,"
            f" chosen/k {chosen:.3f}, energy {energy:.3f}"
        )
    figure(
        f"torch.topk's time over {BEST}'s, {d} {kind}, {label}",
        faster[BEST],
        FASTER if d == 10_000_000 else 1.0,
        device=device,
        clock=clock.__name__,
        times_faster={name: round(value, 2) for name, value in faster.items()},
        ms={name: [round(1e3 * value, 4) for value in quartiles(each)] for name, each in taken.items()},
        chosen_and_energy={name: [round(each, 4) for each in both] for name, both in judged.items()},
        repeats=repeats,
    )


def train(name: str, label: str, task: Task, steps: int) -> None:
    """Train, and print what is chosen along the run."""
    run, shares, energies = Run(task), [], []
    for step in range(steps):
        x = run.compensated()
        chosen = chooser(name, x)(At(step, 0, 1, Rand(0)))
        share, energy = quality(x, chosen, x.abs().topk(count(RATIO, len(x))).values)
        shares.append(share)
        energies.append(energy)
        run.say(chosen)
    inside = sum(FEWEST <= share <= MOST for share in shares) / steps
    figure(
        f"energy over that of the k largest, least along {steps} steps, {label}, {name}",
        min(energies),
        KEPT if name in ("top_k", BEST) else None,
        energy_quartiles=quartiles(energies),
        chosen_quartiles=quartiles(shares),
        chosen_least=min(shares),
        chosen_most=max(shares),
        within_limits=inside,
        entries=len(run.residual),
        test=run.training.evaluate(run.parameters),
    )


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--quick", action="store_true", help="fewer sizes, kinds and repeats")
    parser.add_argument("--training", action="store_true", help="along training runs, instead of times")
    parser.add_argument("--data", type=Path, default=os.environ.get("QUORATE_DATA"), help="the data folder")
    parser.add_argument("--device", choices=("cpu", "cuda"), default="cpu")
    parser.add_argument("--cpu", action="store_true", help="CPU time instead of wall time")
    parser.add_argument("--sizes", nargs="*", type=lambda text: int(float(text)))
    parser.add_argument("--repeats", type=int, default=0)
    options = parser.parse_args()
    if options.device == "cuda" and not torch.cuda.is_available():
        raise SystemExit("there is no GPU here that torch can use: nothing was timed")
    torch.set_num_threads(1)
    if options.training:
        steps = 60 if options.quick else 300
        tasks = {"digits MLP of 300,000": digits(hidden=4_000)}
        if options.data:
            tasks["MNIST MLP"] = mnist(data=Path(options.data), model="mlp")
            if not options.quick:
                tasks["CIFAR-10 ResNet"] = cifar10(data=Path(options.data), model="resnet", width=32)
        for label, task in tasks.items():
            for name in ("top_k", "sampled_k", "gaussian_k", "dgc_sample", "redsync"):
                train(name, label, task, steps)
        return
    task = mnist(data=Path(options.data)) if options.data else digits()
    clock = time.process_time if options.cpu else time.perf_counter
    if options.device == "cuda":
        from selection_gpu import SIZES as GPU_SIZES
        from selection_gpu import compare_on_gpu

        for d in options.sizes or (GPU_SIZES[:2] if options.quick else GPU_SIZES):
            compare_on_gpu(d, options.repeats or 20, task)
        return
    repeats = options.repeats or (5 if options.quick else 7)
    for d in options.sizes or (SIZES[:3] if options.quick else SIZES):
        for kind in ("normal", "gradient") if options.quick else KINDS:
            x = numbers(kind, d, task)
            for threads in (1,) if options.quick else (1, 2):
                torch.set_num_threads(threads)
                compare(x, kind, f"{threads} threads", repeats, clock)
            torch.set_num_threads(1)


if __name__ == "__main__":
    main()
