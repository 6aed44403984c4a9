from __future__ import annotations

from functools import partial

import pytest
import torch

from quorate import run as runs
from quorate.optimizer import Optimizer
from quorate.plan import plan_of
from quorate.programs.gossip import gossip
from quorate.programs.push_sum import push_sum
from quorate.recipe import load
from quorate.topologies import mixing_matrix, regular
from quorate.topologies.one_peer_exponential import one_peer_exponential
from quorate.topologies.ring import ring
from tests.commands import write_recipe
from tests.programs.test_laws import Memory
from tests.tiny import classes, train, training

SGD = Optimizer("sgd", {"lr": 0.1})


def chord(rank, size, step):
    """A directed ring with one link more, whose columns do not sum to 1."""
    return regular(rank, [(rank - 1) % size, *([size // 2] if rank == 0 else [])])


def turning_chord(rank, size, step):
    return regular(rank, [(rank - 1) % size, *([step % size] if rank == 0 else [])])


def exact(size):
    return training(classes(dtype=torch.float64, model=lambda: torch.nn.Linear(6, 3).double()), size)


@pytest.mark.parametrize("topology", [ring, one_peer_exponential, chord, turning_chord])
@pytest.mark.parametrize("size", [1, 2, 3, 5])
def test_agrees_with_the_matrix_form(topology, size):
    """SGP: Z = X / w row by row; X <- P (X - lr * gradients at Z), w <- P w, where the columns of P sum to 1."""
    made, memory = exact(size), Memory()
    x, w = made.initial().repeat(size, 1), torch.ones(size, 1, dtype=torch.float64)
    for step in range(6):
        p = mixing_matrix(topology, size, step)
        p = p / p.sum(dim=0)
        gradients = [made.gradient(x[rank] / w[rank], made.batch(rank, step, 4))[1] for rank in range(size)]
        x, w = p @ (x - 0.1 * torch.stack(gradients)), p @ w
    settings = {"optimizer": SGD, "topology": topology, "steps": 6, "batch": 4}
    ends, _ = train(push_sum, made, simulator={"recorder": memory}, **settings)
    for rank in range(size):
        own = memory.kept[rank, 6][1]
        torch.testing.assert_close(own["parameters"], x[rank] / w[rank], rtol=1e-12, atol=1e-13)
        torch.testing.assert_close(own["weight"], w[rank], rtol=1e-12, atol=0)
    torch.testing.assert_close(ends[0], x.sum(dim=0) / w.sum(), rtol=1e-12, atol=1e-13)


def first_step_only(step, size):
    return 1.0 if step == 0 else 0.0


@pytest.mark.parametrize("topology", [chord, turning_chord])
def test_comes_to_the_mean_where_gossip_is_biased(topology):
    """One step of SGD by each worker, and then nothing but mixing: who should agree on the mean, does."""
    made = exact(5)
    settings = {"optimizer": SGD, "topology": topology, "batch": 4, "learning_rate": first_step_only}
    moved = [-0.1 * made.gradient(made.initial(), made.batch(rank, 0, 4))[1] for rank in range(5)]
    mean = made.initial() + torch.stack(moved).mean(dim=0)
    ends, away = {}, {}
    for program in (push_sum, gossip):
        memory = Memory()
        train(program, made, simulator={"recorder": memory}, steps=150, **settings)
        ends[program] = torch.stack([memory.kept[rank, 150][1]["parameters"] for rank in range(5)])
        away[program] = float((ends[program] - mean).abs().max())
        assert float((ends[program] - ends[program][0]).abs().max()) < 1e-12
    assert away[push_sum] < 1e-12
    assert away[gossip] > 1e-3


def test_where_all_workers_look_alike_the_weights_stay_one():
    memory = Memory()
    made = training(size=8)
    settings = {"optimizer": SGD, "topology": one_peer_exponential, "steps": 5, "batch": 4}
    train(push_sum, made, simulator={"recorder": memory}, **settings)
    assert {float(memory.kept[rank, 5][1]["weight"]) for rank in range(8)} == {1.0}


def test_sends_along_the_links_only_and_sixteen_bytes_more_than_the_parameters():
    made = training(size=4)
    _, trace = train(push_sum, made, optimizer=SGD, topology=chord, steps=3, batch=4)
    said = 3 * (4 * made.layout.numel + 16)
    assert trace.links == {(src, (src + 1) % 4): [said, 3] for src in range(4)} | {(2, 0): [said, 3]}


def test_the_plan_names_the_graph():
    bound = partial(push_sum, optimizer=SGD, topology=chord, steps=3)
    plan = plan_of(bound, 8)
    assert plan.trainers == 8
    assert [label for label, _ in plan.says] == ["topology", "neighbours", "spectral gap"]


@pytest.mark.usefixtures("forked_workers")
@pytest.mark.processes
def test_simulated_and_real_workers_end_with_the_same_bits(tmp_path):
    recipe = load(write_recipe(tmp_path, ready="push_sum"))
    simulated = runs.simulate(recipe, 3, tmp_path / "simulated")
    real = runs.processes(recipe, 3, tmp_path / "real")
    assert real["parameters_sha256"] == simulated["parameters_sha256"]
    assert real["bytes"] == simulated["bytes"]
