"""The three rules of `quorate/node.py` on who may write to a tensor."""

from __future__ import annotations

import pytest
import torch

from quorate.cluster import Cluster
from quorate.errors import RunError
from quorate.optimizer import Optimizer
from quorate.periods.every import every
from quorate.programs.gossip import gossip
from quorate.programs.local_sgd import local_sgd
from quorate.programs.parameter_server import parameter_server
from quorate.programs.synchronous_sgd import synchronous_sgd
from quorate.topologies.ring import ring
from tests.tiny import line_of, simulate, train, training

SLOW = Cluster(seconds_per_sample=1.0, uplink=10.0, downlink=10.0, latency=0.0)


def watched(program, size=2):
    return simulate(program, size, SLOW, paranoid=True)


def says(program, size=2):
    with pytest.raises(RunError) as error:
        watched(program, size)
    return str(error.value)


async def uses_what_it_reduced(node):
    x = torch.ones(3)
    await node.all_reduce(x)
    return x.sum().item(), (await node.all_reduce(x)).tolist()


def test_what_is_given_to_an_all_reduce_is_nan_afterwards():
    for total, again in watched(uses_what_it_reduced):
        assert total != total
        assert all(value != value for value in again)


async def uses_what_it_donated(node):
    x, state = torch.ones(3), {"step": torch.zeros(()), "branch": {"sum": torch.ones(2)}}
    doubled = await node.compute(lambda given, _: given.mul_(2), x, state, donate=True)
    return doubled.tolist(), x[0].item(), state["step"].item(), state["branch"]["sum"][0].item()


def test_what_is_donated_is_nan_afterwards_whether_or_not_it_was_written_to():
    for doubled, *rest in watched(uses_what_it_donated):
        assert doubled == [2.0] * 3
        assert all(value != value for value in rest)


def lends(give, mark):
    """Return a program that writes to a tensor between a call and its await."""

    async def program(node):
        x = torch.ones(100)
        pending = give(node, x)
        x.add_(1)
        if node.rank and give is send:
            await node.recv(0, (x,))
        await pending

    return program, line_of(give, mark)


def send(node, x):
    return node.send(1, (x,)) if node.rank == 0 else node.compute(len, "")  # sent


def gather(node, x):
    return node.all_gather((x,))  # gathered


def read(node, x):
    return node.compute(torch.sum, x, samples=1)  # read


@pytest.mark.parametrize(
    ("give", "mark", "doing", "what"),
    [
        (send, "# sent", "sending", "send"),
        (gather, "# gathered", "sending", "all_gather"),
        (read, "# read", "computing with", "compute"),
    ],
)
def test_what_is_lent_must_not_be_written_to_before_the_await(give, mark, doing, what):
    program, place = lends(give, mark)
    assert says(program) == (
        f"rank 0 wrote to a tensor that it was still {doing}, by the call at {place}"
        f"\nhint: await the `{what}` first, or clone the tensor"
    )


async def writes_in_what_only_reads(node):
    await node.compute(torch.Tensor.zero_, torch.ones(3))  # written


def test_a_computation_must_not_write_to_what_was_not_donated():
    place = line_of(writes_in_what_only_reads, "# written")
    assert says(writes_in_what_only_reads).startswith(
        f"rank 0 wrote to a tensor that it was still computing with, by the call at {place}"
    )


async def writes_after_the_await(node):
    x = torch.ones(4)
    if node.rank == 0:
        await node.send(1, (x,))
        x.zero_()
    else:
        x = (await node.recv(0, (x,)))[1][0]
    gathered = await node.all_gather((x + node.rank,))
    x = await node.compute(torch.sum, x)
    x.add_(1)
    return [tensor[0].item() for (tensor,) in gathered]


def test_what_was_lent_may_be_written_to_after_the_await_and_the_message_is_as_it_was_sent():
    assert watched(writes_after_the_await) == [[0.0, 2.0]] * 2


async def writes_to_the_sum(node):
    total = await node.all_reduce(torch.ones(3))
    total.mul_(0.5)
    return await node.compute(torch.sum, total)


async def writes_to_the_gathered(node):
    (first,), _ = await node.all_gather((torch.ones(3),))
    first.zero_()
    await node.send(node.rank, (torch.ones(1),))


async def writes_to_the_received(node):
    await node.send(1 - node.rank, (torch.ones(3),))
    _, (got,) = await node.recv(None, (torch.ones(3),))
    got[0] = 7
    return got


async def writes_before_it_commits(node):
    total = await node.all_reduce(torch.ones(3))
    total.mul_(0.5)
    node.commit(1, 0.0, {"parameters": total}, {})
    await node.all_reduce(torch.ones(1))


@pytest.mark.parametrize(
    ("program", "rank", "source"),
    [
        (writes_to_the_sum, 0, "all_reduce"),
        (writes_to_the_gathered, 0, "all_gather"),
        (writes_to_the_received, 1, "recv"),
        (writes_before_it_commits, 0, "all_reduce"),
    ],
)
def test_what_was_received_must_not_be_written_to(program, rank, source):
    assert says(program) == (
        f"rank {rank} wrote to a tensor that it got from {source}, which other ranks may share"
        "\nhint: clone it first, or give it to `compute(..., donate=True)`"
    )


async def donates_the_sum(node):
    total = await node.all_reduce(torch.ones(3))
    total = await node.compute(lambda given: given.mul_(3), total, donate=True)
    return (await node.all_reduce(total)).tolist()


def test_what_was_received_may_be_donated():
    assert watched(donates_the_sum) == [[12.0] * 3] * 2


PROGRAMS = [
    (synchronous_sgd, {}),
    (local_sgd, {"period": lambda step: every(step, tau=3)}),
    (gossip, {"topology": ring}),
    (parameter_server, {}),
]


@pytest.mark.parametrize(("program", "settings"), PROGRAMS)
@pytest.mark.parametrize("size", [1, 4])
@pytest.mark.parametrize("optimizer", [Optimizer("adam", {"lr": 0.01}), Optimizer("adafactor")])
def test_programs_give_the_same_bits_when_watched(program, settings, size, optimizer):
    def run(paranoid):
        settings_of_run = {"optimizer": optimizer, "steps": 5, "batch": 3, "simulator": {"paranoid": paranoid}}
        return train(program, training(size=size, unequal=True), **settings_of_run, **settings)[0]

    assert all(torch.equal(a, b) for a, b in zip(run(False), run(True), strict=True))
