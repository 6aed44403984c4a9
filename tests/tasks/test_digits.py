from __future__ import annotations

import pytest
import torch

from quorate.errors import RecipeError
from quorate.tasks.digits import digits


def test_holds_all_samples_once_with_a_fifth_of_each_class_in_the_test():
    task = digits()
    assert (len(task.train), len(task.test)) == (1438, 359)
    total = task.train.y.bincount() + task.test.y.bincount()
    assert torch.equal(task.test.y.bincount(), (total * 0.2).round().long())
    x = torch.cat([task.train.x, task.test.x])
    assert x.shape == (1797, 64)
    assert x.dtype == torch.float32
    assert (x.min(), x.max()) == (0, 1)
    assert torch.unique(x, dim=0).shape == (1797, 64)


def test_is_the_same_every_time():
    assert torch.equal(digits().test.x, digits().test.x)


def test_model_has_the_hidden_units_it_is_given():
    assert [tuple(p.shape) for p in digits(hidden=5).model().parameters()] == [(5, 64), (5,), (10, 5), (10,)]


def test_refuses_no_hidden_units():
    with pytest.raises(RecipeError) as error:
        digits(hidden=0)
    assert str(error.value) == "hidden is the number of hidden units, at least 1; got 0\nhint: set hidden = 64"


def test_is_learnt_in_a_few_passes():
    task, generator = digits(), torch.Generator().manual_seed(0)
    model = task.model()
    for weight in model.parameters():
        torch.nn.init.normal_(weight, std=0.1, generator=generator)
    optimizer = torch.optim.SGD(model.parameters(), lr=0.5)
    for _ in range(10):
        for batch in torch.randperm(len(task.train), generator=generator).split(32):
            optimizer.zero_grad()
            task.loss(model(task.train.x[batch]), task.train.y[batch]).backward()
            optimizer.step()
    assert task.metrics["accuracy"](model(task.test.x), task.test.y) > 0.93
