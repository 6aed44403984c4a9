"""What codecs do to convergence, on problems whose optimum is known."""

from __future__ import annotations

from functools import cache, partial

import pytest
import torch

from quorate.codecs.error_feedback import ErrorFeedback
from quorate.codecs.top_k import TopK
from quorate.exchange import Exchange
from quorate.optimizer import Optimizer
from quorate.periods.every import every
from quorate.programs.gossip import gossip
from quorate.programs.local_sgd import local_sgd
from quorate.programs.parameter_server import parameter_server
from quorate.programs.synchronous_sgd import synchronous_sgd
from quorate.topologies import mixing_matrix
from quorate.topologies.ring import ring
from tests.programs.test_laws import Memory
from tests.tiny import classes, randn, train, training

RATIO, SIZE = 0.1, 4
STEPS, RATE = 100, 0.3


def convex():
    """Logistic regression of 20 features, of which every worker has another part of the samples."""
    task = classes(lambda: torch.nn.Linear(20, 3).double(), n=40, shape=(20,), dtype=torch.float64, l2=0.05)
    return training(task, SIZE)


@cache
def least():
    """Return the least loss over all samples."""
    made = convex()
    best = made.initial().clone()
    for _ in range(250):
        best = best - 1.5 * whole(made, best)[1]
    return whole(made, best)[0]


def gap(parameters):
    """Return how much the loss over all samples is above its least."""
    return whole(convex(), parameters)[0] - least()


def whole(made, parameters):
    each = [made.gradient(parameters.clone(), made.batch(rank, 0, "full")) for rank in range(SIZE)]
    return sum(loss for loss, _ in each) / SIZE, torch.stack([gradient for _, gradient in each]).mean(dim=0)


@pytest.mark.parametrize(
    ("program", "settings"),
    [(synchronous_sgd, {}), (local_sgd, {"period": partial(every, tau=2)}), (parameter_server, {"staleness": 0})],
)
def test_error_feedback_comes_near_the_optimum_where_bare_top_k_does_not(program, settings):
    """The workers disagree on the largest entries, so that what some never say holds all of them off the optimum."""
    chosen = {"optimizer": Optimizer("sgd", {"lr": RATE}), "steps": STEPS, "batch": "full", **settings}
    ends = {
        name: gap(train(program, convex(), Exchange(codec), **chosen)[0][0])
        for name, codec in (("bare", TopK(RATIO)), ("kept", ErrorFeedback(TopK(RATIO))))
    }
    begun = gap(convex().initial())
    assert ends["kept"] < begun / 10
    assert ends["kept"] < ends["bare"] / 5


def apart(codec, consensus_step, steps=200):
    """Return how far workers are apart after gossip from different starts without gradients, relative to the start."""
    made, memory = training(size=5), Memory()

    def first_only(step, size):
        return 1.0 if step == 0 else 0.0

    settings = {"topology": ring, "steps": steps, "batch": 4, "learning_rate": first_only}
    optimizer = Optimizer("sgd", {"lr": 1.0})
    train(
        gossip,
        made,
        Exchange(codec),
        optimizer=optimizer,
        simulator={"recorder": memory},
        **settings,
        consensus_step=consensus_step,
    )
    spread = {
        step: torch.stack([memory.kept[rank, step][1]["parameters"] for rank in range(5)]).std(dim=0).norm()
        for step in (1, steps)
    }
    return float(spread[steps] / spread[1])


@pytest.mark.parametrize("codec", [TopK(0.1), TopK(0.3), ErrorFeedback(TopK(0.1))])
def test_workers_agree_with_the_consensus_step_that_follows_from_the_codec(codec):
    assert apart(codec, None) < 1e-3


def test_averaging_what_is_decoded_does_not_come_to_consensus():
    """Naive compressed gossip, X <- W C(X): the mean of all parameters is lost, whatever the codec leaves out."""
    x, codec = randn(5, 50), TopK(0.1)
    mean, naive = x.mean(dim=0), x.clone()
    mixing = mixing_matrix(ring, 5).float()
    for _ in range(200):
        said = torch.zeros_like(naive)
        for row, own in zip(said, naive, strict=True):
            largest = own.abs().topk(codec.at_most(50)).indices
            row[largest] = own[largest]
        naive = mixing @ said
    assert float((naive - mean).norm() / mean.norm()) > 0.3
