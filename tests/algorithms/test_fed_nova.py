from __future__ import annotations

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from quorate.algorithms.fed_avg import FedAvg
from quorate.algorithms.fed_nova import FedNova
from quorate.algorithms.fed_prox import FedProx
from quorate.errors import RecipeError
from quorate.federated.local import LocalSettings
from quorate.optimizer import Optimizer
from tests.algorithms.world import Bowls, Federation, far

LR, RHO, MU = 0.1, 0.9, 0.5


def factors(kind: str, steps: int) -> list[float]:
    """The vectors a_i of section 4 of the paper."""
    if kind == "momentum":
        return [(1 - RHO ** (steps - k)) / (1 - RHO) for k in range(steps)]
    if kind == "proximal":
        return [(1 - LR * MU) ** (steps - 1 - k) for k in range(steps)]
    return [1.0] * steps


def by_the_book(bowls: Bowls, rounds: list[list[int]], kind: str):
    """Equations (9) and (10): x - tau_eff sum of p_i lr d_i, with d_i = G_i a_i / ||a_i||_1."""
    x = bowls.training.initial().clone()
    for cohort in rounds:
        total = sum(float(bowls.samples[i]) for i in cohort)
        shares = [float(bowls.samples[i]) / total for i in cohort]
        directions, lengths = [], []
        for i in cohort:
            w, velocity, gradients, steps = x.clone(), torch.zeros_like(x), [], int(bowls.samples[i])
            for _ in range(steps):
                gradients.append(bowls.gradient(i, w))
                pull = MU * (w - x) if kind == "proximal" else 0
                velocity = (RHO if kind == "momentum" else 0) * velocity + gradients[-1] + pull
                w = w - LR * velocity
            a = factors(kind, steps)
            lengths.append(sum(a))
            directions.append(sum(each * gradient for each, gradient in zip(a, gradients, strict=True)) / sum(a))
        reach = sum(share * length for share, length in zip(shares, lengths, strict=True))
        x = x - reach * LR * sum(share * way for share, way in zip(shares, directions, strict=True))
    return x


@settings(max_examples=15)
@given(kind=st.sampled_from(["plain", "momentum", "proximal"]), seed=st.integers(0, 1000))
def test_it_is_what_the_paper_says(kind, seed):
    bowls, rounds = Bowls([1, 3, 2, 5], seed=seed), [[0, 2], [1, 2, 3], [0, 3]]
    optimizer = Optimizer("sgd", {"lr": LR, "momentum": RHO if kind == "momentum" else 0.0})
    algorithm = FedNova(MU if kind == "proximal" else 0.0)
    federation = Federation(algorithm, bowls.training, batch=1, optimizer=optimizer)
    for cohort in rounds:
        federation.round(cohort)
    assert far(federation.parameters, by_the_book(bowls, rounds, kind)) <= 1e-12


@pytest.mark.parametrize("settings", [{}, {"momentum": 0.9}, {"momentum": 0.9, "nesterov": True}])
@pytest.mark.parametrize("mu", [0.0, 0.3])
def test_with_equal_steps_it_is_averaging(settings, mu):
    bowls, optimizer = Bowls([3, 3, 3]), Optimizer("sgd", {"lr": 0.1} | settings)
    ours, other = (
        Federation(each, bowls.training, batch=1, optimizer=optimizer) for each in (FedNova(mu), FedProx(mu))
    )
    for cohort in ([0, 1], [0, 1, 2]):
        ours.round(cohort)
        other.round(cohort)
    assert far(ours.parameters, other.parameters) <= 1e-14


def test_a_gradient_counts_as_much_as_it_moves():
    """||a_i||_1, with momentum of Nesterov and a pull, is the sum of the derivatives of the way by the gradients."""
    optimizer = Optimizer("sgd", {"lr": LR, "momentum": RHO, "nesterov": True})
    federation = Federation(FedNova(MU), Bowls([6]).training, optimizer=optimizer)
    local = federation.client.local(0, 0, torch.arange(6), {})
    slopes = torch.zeros(6, dtype=torch.float64, requires_grad=True)
    w = velocity = torch.zeros((), dtype=torch.float64)
    for slope in slopes:
        step = slope + MU * w
        velocity = RHO * velocity + step
        w = w - LR * (step + RHO * velocity)
    (derivatives,) = torch.autograd.grad(-w / LR, slopes)
    assert FedNova(MU).counted(local, 6) == pytest.approx(float(derivatives.sum()), rel=1e-12)


def ends(algorithm, bowls: Bowls, lr: float):
    federation = Federation(algorithm, bowls.training, batch=1, lr=lr)
    for _ in range(round(4 / lr)):
        federation.round()
    return federation.parameters


def test_unequal_steps_move_the_end_of_averaging_but_not_its_own():
    bowls = Bowls([1, 1, 8])
    ours, other = (far(ends(each, bowls, 0.02), bowls.pooled) for each in (FedNova(), FedAvg()))
    assert ours < 0.15 * other
    halved, other_halved = (far(ends(each, bowls, 0.01), bowls.pooled) for each in (FedNova(), FedAvg()))
    assert halved < 0.6 * ours  # what is left is the length of the steps
    assert other_halved > 0.9 * other


def test_steps_that_were_not_done_do_not_count():
    """Told to stop early, a client weighs as much as before: the direction is that of equal weights."""
    bowls = Bowls([5, 5])
    federation = Federation(FedNova(), bowls.training, batch=1, lr=1e-6)
    start = bowls.training.initial()
    federation.round(steps={0: 1, 1: 5})
    way = (start - federation.parameters) / 1e-6
    assert far(way / 3, (bowls.gradient(0, start) + bowls.gradient(1, start)) / 2) < 1e-4


@pytest.mark.parametrize(
    ("optimizer", "says"),
    [
        (Optimizer("adam"), "does not for `adam`"),
        (Optimizer("sgd", {"lr": 0.1, "momentum": 0.9, "dampening": 0.5}), "for `sgd` with `dampening`"),
    ],
)
def test_optimizers_that_do_not_add_up_gradients_are_refused(optimizer, says):
    with pytest.raises(RecipeError, match=rf'{says}\nhint: \[optimizer\]\nname = "sgd"'):
        FedNova().check(LocalSettings(optimizer), None)


def test_a_reply_that_does_not_say_how_much_it_counts_is_refused():
    federation = Federation(FedNova(), Bowls([2, 2]).training)
    ((_, answer), _) = federation.answers(federation.asked([0, 1]))
    for value in (float("nan"), float("inf"), -1.0):
        answer.numbers["counted_steps"] = value
        assert federation.model.flaw(answer) == f"its `counted_steps` is {value}"
    del answer.numbers["counted_steps"]
    assert federation.model.flaw(answer) == "its `counted_steps` is None"
