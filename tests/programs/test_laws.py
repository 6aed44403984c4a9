"""Laws of every program for models that all workers hold; a new file in `quorate/programs` is tested unasked.

Optimizer, period and topology are filled in by annotation, as recipes do; anything else keeps its default.
"""

from __future__ import annotations

from functools import partial
from inspect import signature
from typing import get_type_hints

import pytest
import torch

from quorate import parts
from quorate.cluster import Cluster
from quorate.codecs.chain import Chain
from quorate.codecs.identity import Identity
from quorate.codes import Code
from quorate.codes.repetition import Repetition
from quorate.engines.batching import Batching
from quorate.engines.simulator import Simulator
from quorate.exchange import Exchange
from quorate.loading import trains_tables
from quorate.optimizer import Optimizer
from quorate.periods import Period
from quorate.periods.every import every
from quorate.topologies import Topology
from quorate.topologies.ring import ring
from quorate.topologies.star import star
from quorate.trees import flatten, nest
from tests.test_exchange import Shifted
from tests.tiny import FREE, classes, randn, simulate, training

STEPS = 7
FOUND = {name: parts.find("program", name) for name in sorted(parts.names("program"))}
NAMES = [name for name, each in FOUND.items() if "node" in signature(each).parameters and not trains_tables(each)]
ADAM = Optimizer("adam", {"lr": 0.05})
PARTS = {Optimizer: ADAM, Period: partial(every, tau=3), Topology: ring, Code: Repetition(0)}
OWN = {"ad_psgd": {"topology": star}, "gossip": {"consensus_step": 1.0}}
WAIT_FOR_NOBODY = {"ad_psgd", "downpour"}  # so that the order of events, and hence the result, follows the clock
SPEAK_PLAINLY = {"ad_psgd", "coded_sgd"}
every_program = pytest.mark.parametrize("name", NAMES)


class Memory:
    """A recorder that keeps what every rank commits, and goes on from what another one has kept."""

    def __init__(self, resumed=None, step=0):
        self.resumed, self.step, self.kept, self.losses = resumed, step, {}, {}

    def restore(self, rank, shared, own):
        if self.resumed is None:
            return 0, shared, own
        shared, own = self.resumed.kept[rank, self.step]
        return self.step, nest(shared), nest(own)

    def saves(self, step):
        return True

    def evaluates(self, step):
        return False

    def commit(self, rank, step, now, loss, shared, own, metrics=None):
        copies = [{key: tensor.clone() for key, tensor in flatten(tree).items()} for tree in (shared, own)]
        self.kept[rank, step], self.losses[rank, step] = copies, loss


def bound(name, made, exchange=None, **settings):
    """Return a program that needs a node only."""
    program = parts.find("program", name)
    hints = get_type_hints(program)
    filled = {key: PARTS[hints[key]] for key in parts.settings(program) if hints[key] in PARTS}
    filled |= {"steps": STEPS, "batch": 5} | OWN.get(name, {}) | settings
    return partial(program, training=made, exchange=exchange or Exchange(), **filled)


def assert_same(one, other):
    assert len(one) == len(other)
    assert all(torch.equal(a, b) for a, b in zip(one, other, strict=True))


def test_the_folder_is_found():
    assert {"synchronous_sgd", "local_sgd", "gossip", "parameter_server"} <= set(NAMES)


@every_program
@pytest.mark.parametrize("size", [1, 2, 3, 5])
@pytest.mark.parametrize("unequal", [False, True])
def test_all_workers_end_with_the_same_finite_parameters(name, size, unequal):
    made = training(size=size, unequal=unequal)
    ends = simulate(bound(name, made), size)
    assert (ends[0].shape, ends[0].dtype) == (made.initial().shape, made.initial().dtype)
    assert bool(ends[0].isfinite().all())
    assert not torch.equal(ends[0], made.initial())
    assert_same(ends, [ends[0]] * size)


@every_program
def test_every_rank_commits_every_step_with_its_parameters_and_a_loss(name):
    memory = Memory()
    simulate(bound(name, training(size=3)), 3, recorder=memory)
    assert set(memory.kept) == {(rank, step) for rank in range(3) for step in range(1, STEPS + 1)}
    assert all(("parameters" in shared) != ("parameters" in own) for shared, own in memory.kept.values())
    assert all(loss > 0 for loss in memory.losses.values())


@every_program
def test_what_is_committed_as_shared_is_equal_on_all_workers(name):
    memory = Memory()
    simulate(bound(name, training(size=3, unequal=True)), 3, recorder=memory)
    for step in range(1, STEPS + 1):
        first, *others = (memory.kept[rank, step][0] for rank in range(3))
        assert all(other.keys() == first.keys() for other in others)
        assert all(torch.equal(other[key], first[key]) for other in others for key in first)


@every_program
@pytest.mark.parametrize("step", [1, 3, 5, STEPS])
@pytest.mark.parametrize("optimizer", [ADAM, Optimizer("sgd", {"lr": 0.1, "momentum": 0.9}), Optimizer("adafactor")])
def test_a_run_that_goes_on_from_any_step_ends_with_the_same_bits(name, step, optimizer):
    whole = Memory()
    ends = simulate(bound(name, training(size=3, unequal=True), optimizer=optimizer), 3, recorder=whole)
    rest = Memory(whole, step)
    assert_same(simulate(bound(name, training(size=3, unequal=True), optimizer=optimizer), 3, recorder=rest), ends)
    assert all(rest.losses[key] == whole.losses[key] for key in rest.losses)
    assert min((step_done for _, step_done in rest.losses), default=STEPS + 1) == step + 1


@pytest.mark.parametrize("name", sorted(set(NAMES) - WAIT_FOR_NOBODY))
def test_the_clock_does_not_change_the_parameters(name):
    ends = simulate(bound(name, training(size=4)), 4)
    uneven = Cluster(
        seconds_per_sample={"name": "exponential", "drawn": "step"}, uplink=1e5, latency=1e-3, node=[{"ranks": [2]}]
    )
    assert_same(simulate(bound(name, training(size=4)), 4, uneven), ends)


@every_program
@pytest.mark.parametrize("size", [1, 4])
def test_gives_the_same_bits_when_watched(name, size):
    ends = simulate(bound(name, training(size=size, unequal=True)), size)
    assert_same(simulate(bound(name, training(size=size, unequal=True)), size, paranoid=True), ends)


@every_program
def test_vectorised_gradients_change_rounding_only(name):
    task = classes(dtype=torch.float64, model=lambda: torch.nn.Linear(6, 3).double())
    sgd = Optimizer("sgd", {"lr": 0.1})
    exact = simulate(bound(name, training(task), optimizer=sgd), 4)
    together = Batching(exact=False)
    for one, other in zip(
        exact, simulate(bound(name, training(task), optimizer=sgd), 4, batching=together), strict=True
    ):
        torch.testing.assert_close(one, other, rtol=1e-11, atol=1e-13)
    assert not together.reasons


@pytest.mark.parametrize("name", sorted(set(NAMES) - SPEAK_PLAINLY))
def test_codecs_that_change_nothing_change_nothing(name):
    ends = simulate(bound(name, training(size=3)), 3)
    chain = Exchange(Chain((Identity(), Chain(()), Identity())))
    assert_same(simulate(bound(name, training(size=3), chain), 3), ends)


@pytest.mark.parametrize("name", sorted(set(NAMES) - SPEAK_PLAINLY))
def test_a_message_is_decoded_as_of_the_worker_that_made_it(name):
    sgd, task = Optimizer("sgd", {"lr": 0.1}), classes(lambda: torch.nn.Linear(6, 3).double(), dtype=torch.float64)
    ends = simulate(bound(name, training(task, 3), optimizer=sgd), 3)
    shifted = simulate(bound(name, training(task, 3), Exchange(Shifted()), optimizer=sgd), 3)
    torch.testing.assert_close(shifted[0], ends[0], rtol=1e-9, atol=1e-9)


@every_program
def test_the_initial_parameters_and_the_data_are_left_alone(name):
    made = training(size=3)
    initial, x = made.initial().clone(), made.train.x.clone()
    simulate(bound(name, made), 3)
    assert torch.equal(made.initial(), initial)
    assert torch.equal(made.train.x, x)


@every_program
def test_learns(name):
    """Two classes that a line divides: the loss falls by half."""
    made = training(classes(n=60), 3)
    made.train.y.copy_((made.train.x[:, 0] + 0.1 * randn(60) > 0).long())
    memory = Memory()
    Simulator(3, FREE, recorder=memory).run(bound(name, made, steps=60, batch="full"))
    first, last = (sum(memory.losses[rank, step] for rank in range(3)) for step in (1, 60))
    assert last < first / 2
