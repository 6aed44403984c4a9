"""What two ranks check of a measured link, and of an `Overlap` that is tuned; test_tuning.py starts them."""

from __future__ import annotations

import time

import torch
from torch import nn

from quorate.adaptive import Link
from quorate.codecs.error_feedback import ErrorFeedback
from quorate.codecs.identity import Identity
from quorate.engines.group import group
from quorate.engines.link import measure, slowest, told
from quorate.engines.overlap import Overlap
from quorate.engines.processes import ProcessNode
from quorate.engines.tuning import Tuning, tune

FAST, SLOW = Link(2, 1e12, 1e-6, 1e-6), Link(2, 1e4, 1e-3, 1e-3)


def agrees(node: ProcessNode) -> None:
    """The same numbers on all ranks, whichever was slower, and within a second or two."""
    began = time.perf_counter()
    link = measure(node)
    assert time.perf_counter() - began < 10
    numbers = torch.tensor([link.rate, link.all_reduce, link.all_gather], dtype=torch.float64)
    mine, others = told(node, numbers)
    assert torch.equal(mine, others)
    assert link.size == 2
    assert 1e6 < link.rate < 1e12
    assert 1e-6 < link.all_reduce < 1
    assert 1e-6 < link.all_gather < 1
    assert slowest(node, 1.0 + node.rank) == 2.0


def model() -> nn.Module:
    torch.manual_seed(0)
    return nn.Sequential(nn.Linear(32, 300), nn.Tanh(), nn.Linear(300, 200), nn.Tanh(), nn.Linear(200, 3))


def tuned(node: ProcessNode, link: Link | None, candidates: tuple[str, ...]) -> tuple[Overlap, Tuning, nn.Module]:
    """Train until the choice is made; each rank has data of its own."""
    module = model()
    overlap = Overlap(module, node, bucket_bytes=(1 << 10, 1 << 16))
    assert len(overlap.buckets) > 1
    tuning = Tuning(overlap, candidates, link=link, warm_up=2, trial=6)
    x = torch.randn(8, 32, generator=torch.Generator().manual_seed(node.rank))
    optimizer = torch.optim.SGD(module.parameters(), 0.05)
    for _ in range(100):
        optimizer.zero_grad()
        nn.functional.cross_entropy(module(x), torch.arange(8) % 3).backward()
        optimizer.step()
        tuning.step()
        if tuning.settled:
            break
    assert tuning.settled
    flat = torch.cat([parameter.detach().reshape(-1) for parameter in module.parameters()])
    mine, others = told(node, flat)
    assert torch.equal(mine, others)
    assert len({tuple(plan.tolist()) for plan in told(node, torch.tensor(tuning.plan))}) == 1
    return overlap, tuning, module


def tunes(node: ProcessNode) -> None:
    """The wall clock decides between what is tried; what should be hopeless is not tried."""
    overlap, tuning, _ = tuned(node, None, ("dense", "top_k 0.01"))
    assert tuning.candidates[tuning.plan[0]] in str(tuning)
    overlap.close()
    overlap, tuning, _ = tuned(node, FAST, ("dense", "power_sgd"))
    assert tuning._plans[0] == (0,) * len(overlap.buckets)
    overlap.close()
    overlap, tuning, _ = tuned(node, SLOW, ("dense", "top_k 0.01"))
    assert tuning.plan == (1,) * len(overlap.buckets)
    assert all(isinstance(bucket.exchange.codec, ErrorFeedback) for bucket in overlap.buckets)
    before = [bucket.exchange for bucket in overlap.buckets]
    tuning.step()
    assert [bucket.exchange for bucket in overlap.buckets] == before
    overlap.close()


def leaves_alone(node: ProcessNode) -> None:
    """With dense as the only candidate, an overlap is as it was."""
    overlap = Overlap(model(), node)
    tuning = tune(overlap, ("dense",))
    assert all(isinstance(bucket.exchange.codec, Identity) for bucket in overlap.buckets)
    assert "dense, not settled yet" in str(tuning)
    overlap.close()


def main() -> None:
    torch.set_num_threads(1)
    with group(timeout=200) as node:
        agrees(node)
        tunes(node)
        leaves_alone(node)
    print("all is well")


if __name__ == "__main__":
    main()
