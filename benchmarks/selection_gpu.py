"""How long does it take on a GPU to choose entries and to quantise, with the kernels of `quorate.kernels` and without?

The part of `selection.py` that `--device cuda` runs.
"""

from __future__ import annotations

from collections.abc import Callable
from unittest import mock

import torch
from figures import figure, quartiles
from selection import BEST, FASTER, RATIO, chooser, numbers, quality
from torch import Tensor

from quorate import kernels
from quorate.codecs import Codec
from quorate.codecs._sparsifier import count
from quorate.codecs.int8 import Int8
from quorate.codecs.one_bit import OneBit
from quorate.codecs.sign import Sign
from quorate.rand import At, Rand
from quorate.tasks import Task

SIZES = (1_000_000, 10_000_000, 100_000_000, 500_000_000)
KERNELS = ("top_k", "sampled_k", "gaussian_k", "redsync", "block_top_k")
QUANTISERS: tuple[Codec, ...] = (Int8(), Sign(), OneBit())
WARM_UP = 3


def on_gpu(call: Callable[[], object]) -> float:
    """Return the seconds of a call between two events of the GPU, waits for the processor included."""
    start, end = torch.cuda.Event(enable_timing=True), torch.cuda.Event(enable_timing=True)
    start.record()
    call()
    end.record()
    end.synchronize()
    return start.elapsed_time(end) / 1e3


def plainly(call: Callable[[], object]) -> Callable[[], object]:
    """Return a call that uses no kernels of ours."""

    def without() -> None:
        with mock.patch.object(kernels, "usable", return_value=False):
            call()

    return without


def gpu_ways(x: Tensor) -> dict[str, Callable[[], object]]:
    """Return all that is timed on a GPU."""
    at, total = At(0, 0, 1, Rand(0)), torch.zeros_like(x)
    ways: dict[str, Callable[[], object]] = {"torch.topk": lambda: chooser("torch.topk", x)(at)}
    for name in (*KERNELS, "dgc_sample", "threshold"):
        choose = chooser(name, x)
        ways[name] = lambda choose=choose: choose(at)  # type: ignore[misc]
        if name in KERNELS:
            ways[f"{name}, plain"] = plainly(ways[name])
    for codec in QUANTISERS:
        head, side, _ = codec.encode(x.clone(), {}, at)
        named = type(codec).__name__
        ways[f"{named} take"] = lambda codec=codec: codec.take(total, {}, at)  # type: ignore[misc]
        ways[f"{named} add"] = lambda codec=codec, head=head, side=side: codec.add(total, head, side, 0.5, at)  # type: ignore[misc]
        for what in ("take", "add"):
            ways[f"{named} {what}, plain"] = plainly(ways[f"{named} {what}"])
    return ways


def compare_on_gpu(d: int, repeats: int, task: Task) -> None:
    """Time all ways in turn, after a warm-up in which kernels are compiled; print a table and a figure."""
    x, device = numbers("normal", d, task, "cuda"), torch.cuda.get_device_name()
    ways, most = gpu_ways(x), x.abs().topk(count(RATIO, d)).values
    taken: dict[str, list[float]] = {name: [] for name in ways}
    for repeat in range(WARM_UP + repeats):
        for name in ways if repeat % 2 else reversed(ways):
            seconds = on_gpu(ways[name])
            if repeat >= WARM_UP:
                taken[name].append(seconds)
    middle = {name: quartiles(each)[1] for name, each in taken.items()}
    print(f"\n{d} normal, {device}")
    for name, seconds in middle.items():
        low, _, high = quartiles(taken[name])
        share = 4 * d / seconds / 1e9
        print(
            f"  {name:20} {1e3 * seconds:9.4f} ms [{1e3 * low:.4f}, {1e3 * high:.4f}], {share:7.1f} GB/s of x read once"
        )
    for name in KERNELS:
        chosen, energy = quality(x, chooser(name, x)(At(0, 0, 1, Rand(0))), most)
        print(f"  {name}: chosen/k {chosen:.3f}, energy {energy:.3f}")
    figure(
        f"torch.topk's time over {BEST}'s, {d} normal, GPU",
        middle["torch.topk"] / middle[BEST],
        FASTER if d >= 10_000_000 else 1.0,
        device=device,
        ms={name: [round(1e3 * value, 5) for value in quartiles(each)] for name, each in taken.items()},
        repeats=repeats,
    )
