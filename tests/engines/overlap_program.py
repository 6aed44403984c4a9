"""Run by two ranks of torchrun for test_overlap.py and test_loop.py: every assertion stops the rank."""

from __future__ import annotations

from functools import partial

import pytest
import torch
import torch.distributed as dist
from torch import nn

from quorate.engines.ddp_hook import ddp_hook
from quorate.engines.group import group
from quorate.engines.overlap import Overlap
from quorate.engines.processes import ProcessNode
from quorate.errors import QuorateError
from quorate.exchange import Exchange
from quorate.loop import Driven
from quorate.periods.every import every
from quorate.programs.gossip import gossip
from quorate.programs.local_sgd import local_sgd
from quorate.programs.parameter_server import parameter_server
from quorate.programs.synchronous_sgd import synchronous_sgd
from quorate.topologies.ring import ring

STEPS = 6


class Branches(nn.Module):
    """A model of which a backward pass reaches only a part."""

    def __init__(self) -> None:
        super().__init__()
        self.first, self.second, self.last = nn.Linear(20, 30), nn.Linear(20, 30), nn.Linear(30, 4)

    def forward(self, x: torch.Tensor, which: int = 0) -> torch.Tensor:
        return self.last(torch.relu((self.first, self.second)[which](x)))


def model() -> nn.Module:
    torch.manual_seed(0)
    return nn.Sequential(nn.Linear(20, 300), nn.ReLU(), nn.Linear(300, 30), nn.ReLU(), nn.Linear(30, 4))


def data(rank: int, step: int) -> tuple[torch.Tensor, torch.Tensor]:
    generator = torch.Generator().manual_seed(1000 * rank + step)
    return torch.randn(8, 20, generator=generator), torch.randint(0, 4, (8,), generator=generator)


def train(called: nn.Module, module: nn.Module, rank: int, **zero: bool) -> torch.Tensor:
    optimizer = torch.optim.SGD(module.parameters(), 0.1, momentum=0.9)
    for step in range(STEPS):
        x, y = data(rank, step)
        optimizer.zero_grad(**zero)
        nn.functional.cross_entropy(called(x), y).backward()
        optimizer.step()
    return flat(module)


def flat(module: nn.Module) -> torch.Tensor:
    return torch.cat([parameter.detach().reshape(-1).clone() for parameter in module.parameters()])


def by_ddp(rank: int, **options: object) -> torch.Tensor:
    module = model()
    called = nn.parallel.DistributedDataParallel(module, **options)
    return train(called, module, rank)


def overlap(node: ProcessNode, expected: torch.Tensor) -> None:
    for sizes in ((1 << 20, 25 << 20), (1, 1), (4000, 9000)):
        module = model()
        over = Overlap(module, node, bucket_bytes=sizes)
        assert torch.equal(train(module, module, node.rank), expected), f"buckets of {sizes}"
        over.close()
    module = model()
    Overlap(module, node)
    assert torch.equal(train(module, module, node.rank, set_to_none=False), expected), "gradients kept between steps"


def overlap_averages(node: ProcessNode) -> None:
    module, alone = model(), [model(), model()]
    over = Overlap(module, node, weights=(0.25, 0.75))
    with over.paused():
        loss(module, node.rank, 0).backward()
    loss(module, node.rank, 1).backward()
    for rank in range(2):
        (loss(alone[rank], rank, 0) + loss(alone[rank], rank, 1)).backward()
    for mine, first, second in zip(module.parameters(), *(each.parameters() for each in alone), strict=True):
        torch.testing.assert_close(mine.grad, 0.25 * first.grad + 0.75 * second.grad)


def overlap_unused(node: ProcessNode) -> None:
    torch.manual_seed(node.rank)  # start apart: everybody gets rank 0's parameters
    module = Branches()
    Overlap(module, node, bucket_bytes=(1, 1))
    x, y = data(node.rank, 0)
    nn.functional.cross_entropy(module(x, which=node.rank), y).backward()
    assert module.first.weight.grad is not None
    halves = [module.first.weight.grad.clone(), module.second.weight.grad.clone()]
    gathered = [torch.empty_like(halves[0]) for _ in range(2)]
    dist.all_gather(gathered, halves[0])
    assert torch.equal(gathered[0], gathered[1])
    assert halves[0].abs().sum() > 0
    assert halves[1].abs().sum() > 0


def hook(node: ProcessNode, expected: torch.Tensor) -> None:
    for cap in (25, 0.001):
        module = model()
        called = nn.parallel.DistributedDataParallel(module, bucket_cap_mb=cap)
        called.register_comm_hook(None, ddp_hook(Exchange(), node))
        assert torch.equal(train(called, module, node.rank), expected), f"bucket_cap_mb={cap}"


def loss(module: nn.Module, rank: int, step: int) -> torch.Tensor:
    x, y = data(rank, step)
    return nn.functional.cross_entropy(module(x), y)


def driven(node: ProcessNode, program: object) -> torch.Tensor:
    module = model()
    optimizer = torch.optim.SGD(module.parameters(), 0.1, momentum=0.9)
    schedule = torch.optim.lr_scheduler.StepLR(optimizer, 3, gamma=0.5)
    with Driven(module, optimizer, program, node):
        for step in range(STEPS):
            optimizer.zero_grad()
            loss(module, node.rank, step).backward()
            optimizer.step()
            schedule.step()
    end = flat(module)
    both = [torch.empty_like(end) for _ in range(2)]
    dist.all_gather(both, end)
    assert torch.equal(both[0], both[1]), "the ranks end apart"
    return end


def scheduled_by_hand(node: ProcessNode) -> torch.Tensor:
    module = model()
    called = nn.parallel.DistributedDataParallel(module)
    optimizer = torch.optim.SGD(module.parameters(), 0.1, momentum=0.9)
    schedule = torch.optim.lr_scheduler.StepLR(optimizer, 3, gamma=0.5)
    for step in range(STEPS):
        optimizer.zero_grad()
        loss(called, node.rank, step).backward()
        optimizer.step()
        schedule.step()
    return flat(module)


def loops(node: ProcessNode) -> None:
    expected = scheduled_by_hand(node)
    assert torch.equal(driven(node, synchronous_sgd), expected), "synchronous SGD is what DDP does"
    served = driven(node, parameter_server)
    torch.testing.assert_close(served, expected, atol=1e-6, rtol=1e-6)
    averaged = driven(node, partial(local_sgd, period=partial(every, tau=4)))
    mixed = driven(node, partial(gossip, topology=ring))
    for other in (averaged, mixed):
        assert 1e-6 < float((other - expected).abs().max()) < 0.5


def refuses(node: ProcessNode) -> None:
    module = model()
    with pytest.raises(QuorateError) as caught:
        Driven(module, torch.optim.SGD(list(module.parameters())[:1], 0.1), synchronous_sgd, node)
    assert str(caught.value) == "the optimizer does not hold `0.bias`\nhint: make it from all of `model.parameters()`"
    for parameter in module.parameters():
        parameter.requires_grad = False
    with pytest.raises(QuorateError, match="no trainable parameter"):
        Overlap(module, node)


def main() -> None:
    torch.set_num_threads(1)
    with group(timeout=200) as node:
        expected = by_ddp(node.rank)
        overlap(node, expected)
        overlap_averages(node)
        overlap_unused(node)
        hook(node, expected)
        loops(node)
        refuses(node)
    print("all is well")


if __name__ == "__main__":
    main()
