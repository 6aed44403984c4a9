from __future__ import annotations

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from quorate.errors import RecipeError
from quorate.tasks.logistic_regression import logistic_loss, logistic_regression


@given(margins=st.lists(st.floats(-30, 30), min_size=1, max_size=5))
def test_loss_is_the_formula(margins):
    margins = torch.tensor(margins, dtype=torch.float64)
    y = torch.where(margins > 1, -1, 1)
    assert torch.allclose(logistic_loss(y * margins, y), (-margins).exp().log1p().mean(), rtol=1e-12, atol=0)


def test_loss_is_finite_and_exact_far_out():
    y = torch.tensor([1])
    assert logistic_loss(torch.tensor([-1e6]), y) == 1e6
    assert 0 < logistic_loss(torch.tensor([50.0], dtype=torch.float64), y) < 1e-20


@pytest.mark.parametrize("dtype", ["float32", "float64"])
def test_starts_at_zero_in_the_stated_precision(dtype):
    task = logistic_regression(file="generated", features=5, samples=40, l2=0.1, dtype=dtype)
    (w,) = task.model().parameters()
    assert w.dtype == task.train.x.dtype == getattr(torch, dtype)
    assert torch.equal(w, torch.zeros_like(w))
    assert task.l2 == 0.1
    assert float(task.loss(task.model()(task.train.x), task.train.y).detach()) == pytest.approx(0.6931472)


def test_generated_classes_overlap_but_can_be_told_apart():
    task = logistic_regression(file="generated", features=20)
    model = task.model()
    optimizer = torch.optim.LBFGS(model.parameters(), max_iter=50)

    def closure():
        optimizer.zero_grad()
        loss = task.loss(model(task.train.x), task.train.y)
        loss.backward()
        return loss

    optimizer.step(closure)
    assert 0.8 < task.metrics["accuracy"](model(task.test.x), task.test.y) < 0.99


@pytest.mark.parametrize("l2", [-1.0, float("nan"), float("inf")])
def test_refuses_a_negative_l2(l2):
    with pytest.raises(RecipeError) as error:
        logistic_regression(file="generated", l2=l2)
    assert str(error.value) == f"l2 is a factor of |parameters|^2 / 2, at least 0; got {l2}\nhint: set l2 = 0.0"


@pytest.mark.data("libsvm/a9a", "libsvm/a9a.t")
def test_reads_a9a(data_folder):
    task = logistic_regression(data=data_folder)
    assert (len(task.train), len(task.test)) == (32_561, 16_281)
    assert (int((task.train.y == 1).sum()), int((task.test.y == 1).sum())) == (7841, 3846)
    assert int((task.train.x != 0).sum()) == 451_592
