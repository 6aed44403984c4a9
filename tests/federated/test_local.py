"""Local work, against the same steps written out."""

import math
from dataclasses import replace

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch.nn import functional

from quorate.errors import RecipeError
from quorate.federated.local import Local, LocalSettings, LocalWork, limited, plain_lr, train
from quorate.gradient import Batch, TaskError
from quorate.optimizer import Optimizer
from quorate.rand import Rand
from tests.federated.homes import training
from tests.tiny import randn

MADE = training()
D = MADE.layout.numel
SGD = Optimizer("sgd", {"lr": 0.1})


def work(start=None, batch=4, optimizer=SGD, epochs=2, **more) -> LocalWork:
    start = MADE.initial() if start is None else start
    shard = MADE.shards[0]
    orders = [shard[torch.randperm(len(shard), generator=torch.Generator().manual_seed(e))] for e in range(epochs)]
    return LocalWork(start, orders, batch, optimizer, MADE.rand, ("forward", 0), **more)


def by_hand(each: LocalWork) -> torch.Tensor:
    """Take the steps with autograd on an unflattened linear layer."""
    w = each.start.clone()
    for order in each.orders:
        for piece in order.split(each.batch):
            weight, bias = w[:12].view(3, 4).clone().requires_grad_(), w[12:].clone().requires_grad_()
            x, y = MADE.train.x[piece], MADE.train.y[piece]
            functional.cross_entropy(x @ weight.T + bias, y).backward()
            slope = torch.cat([weight.grad.reshape(-1), bias.grad])
            anchor = each.start if each.anchor is None else each.anchor
            slope = slope + each.proximal * (w - anchor) + (0 if each.shift is None else each.shift)
            w = w - 0.1 * each.factor * slope
    return w


@pytest.mark.parametrize(
    "more",
    [
        {},
        {"factor": 0.5},
        {"proximal": 0.7},
        {"proximal": 0.7, "anchor": randn(D, seed=5)},
        {"shift": randn(D, seed=6)},
        {"proximal": 0.3, "shift": randn(D, seed=7), "factor": 2.0},
    ],
    ids=str,
)
def test_steps_are_what_they_are_said_to_be(more):
    each = work(**more)
    before = each.start.clone()
    trained = train(MADE.gradient, MADE.layout, each)
    torch.testing.assert_close(trained.parameters, by_hand(each), rtol=0, atol=1e-6)
    assert torch.equal(each.start, before)
    assert trained.steps == len(each.sizes)


def test_the_loss_is_the_mean_of_the_steps_without_the_proximal_term():
    each = work(batch="full", epochs=1, proximal=9.0, anchor=randn(D, seed=1))
    loss, _ = MADE.gradient(each.start, Batch(each.orders[0], len(each.orders[0]), (0,), Rand(0)))
    assert train(MADE.gradient, MADE.layout, each).loss == pytest.approx(loss)


@pytest.mark.parametrize("settings", [{"lr": 0.1}, {"lr": 0.1, "momentum": 0.9, "weight_decay": 0.1}], ids=str)
def test_what_does_not_move_keeps_its_bits(settings):
    each = work(optimizer=Optimizer("sgd", settings), moves=(slice(2, 5), slice(12, 14)))
    moved = train(MADE.gradient, MADE.layout, each).parameters != each.start
    assert moved.nonzero()[:, 0].tolist() == [2, 3, 4, 12, 13]


@given(
    n=st.integers(0, 30),
    batch=st.one_of(st.just("full"), st.integers(1, 12)),
    epochs=st.integers(0, 3),
    most=st.none() | st.integers(0, 9),
)
def test_sizes_are_those_of_the_batches(n, batch, epochs, most):
    each = LocalWork(torch.zeros(1), [torch.arange(n)] * epochs, batch, SGD, Rand(0), (0,), most=most)
    assert each.sizes == [len(piece.indices) for piece in each.batches]
    assert each.samples == sum(each.sizes)
    if most is not None:
        assert len(each.sizes) <= most


def test_limited_work_stops_early_and_never_later():
    assert len(limited(work(), 2).sizes) == 2
    assert len(limited(limited(work(), 2), 5).sizes) == 2
    cut = train(MADE.gradient, MADE.layout, limited(work(), 1)).parameters
    torch.testing.assert_close(cut, by_hand(replace(work(), orders=[work().orders[0][:4]])))


def test_a_loss_that_is_not_finite_is_an_error():
    with pytest.raises(TaskError, match="not finite"):
        train(MADE.gradient, MADE.layout, work(start=torch.full((D,), math.nan)))


@pytest.mark.parametrize(
    ("name", "settings"),
    [("adam", {"lr": 0.1}), ("sgd", {"lr": 0.1, "momentum": 0.9}), ("sgd", {"lr": 0.1, "maximize": True})],
)
def test_a_correction_for_plain_steps_refuses_others(name, settings):
    with pytest.raises(RecipeError) as error:
        plain_lr(Optimizer(name, settings))
    assert 'name = "sgd"' in (error.value.hint or "")


@pytest.mark.parametrize(("more", "named"), [({"epochs": 0}, "epochs"), ({"batch": 0}, "batch")])
def test_settings_out_of_range_are_named(more, named):
    with pytest.raises(RecipeError, match=f"`{named}`"):
        LocalSettings(SGD, **more)


def local(client=1, round=3, **numbers) -> Local:
    return Local(
        client, round, 4, MADE.shards[client], LocalSettings(SGD, 2, 5), MADE.layout, MADE.initial(), MADE.rand, numbers
    )


def test_orders_differ_by_client_round_and_purpose_and_are_equal_again():
    def orders(each: Local, **more):
        return [order.tolist() for order in each.work(MADE.initial(), **more).orders]

    assert orders(local()) == orders(local())
    assert orders(local()) != orders(local(round=4))
    assert orders(local()) != orders(local(), purpose="head")
    assert sorted(orders(local(client=2))[0]) == MADE.shards[2].tolist()


def test_the_request_limits_steps_and_scales_the_rate():
    assert len(local(steps=2.0).work(MADE.initial()).sizes) == 2
    assert local(factor=0.5).work(MADE.initial()).factor == 0.5
    assert local(factor=0.5).lr == pytest.approx(0.05)
