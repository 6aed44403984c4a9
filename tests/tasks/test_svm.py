from __future__ import annotations

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from quorate.tasks.svm import hinge_loss, squared_hinge_loss, svm


@given(outputs=st.lists(st.floats(-5, 5), min_size=1, max_size=5), sign=st.sampled_from([-1, 1]))
def test_losses_are_the_formulas(outputs, sign):
    output, y = torch.tensor(outputs, dtype=torch.float64), torch.full((len(outputs),), sign)
    slack = [max(0.0, 1 - sign * value) for value in outputs]
    assert float(hinge_loss(output, y)) == pytest.approx(sum(slack) / len(slack))
    assert float(squared_hinge_loss(output, y)) == pytest.approx(sum(s * s / 2 for s in slack) / len(slack))


@pytest.mark.parametrize(("squared", "loss"), [(True, 0.5), (False, 1.0)])
def test_starts_at_zero_with_slack_one(squared, loss):
    task = svm(file="generated", features=5, samples=40, squared=squared)
    assert set(task.train.y.tolist()) == {-1, 1}
    assert task.loss(task.model()(task.train.x), task.train.y) == loss


@pytest.mark.parametrize("squared", [True, False])
def test_gradient_descent_tells_the_classes_apart(squared):
    task = svm(file="generated", features=10, squared=squared)
    model = task.model()
    optimizer = torch.optim.SGD(model.parameters(), lr=1.0, weight_decay=task.l2)
    for _ in range(100):
        optimizer.zero_grad()
        task.loss(model(task.train.x), task.train.y).backward()
        optimizer.step()
    assert task.metrics["accuracy"](model(task.test.x), task.test.y) > 0.8


@pytest.mark.data("libsvm/a9a", "libsvm/a9a.t")
def test_reads_a9a(data_folder):
    task = svm(data=data_folder)
    assert task.train.x.shape == (32_561, 123)
    assert task.test.x.shape == (16_281, 123)
