from __future__ import annotations

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import nn
from torch.nn import functional

from quorate.gradient import Batch, TaskError
from quorate.rand import Rand
from tests.tiny import classes, cnn, line_of, mlp, training


def taken(task, *, batch=8, step=0, rank=0, seed=0, made=None):
    made = made or training(task, seed=seed)
    return made.gradient(made.initial(), made.batch(rank, step, batch))


@pytest.mark.parametrize(("build", "shape"), [(mlp, (6,)), (cnn, (1, 6, 6))])
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
@pytest.mark.parametrize("l2", [0.0, 0.1])
def test_is_what_backward_computes(build, shape, dtype, l2):
    task = classes(lambda: build(dtype), shape=shape, dtype=dtype, l2=l2)
    made = training(task)
    batch = made.batch(1, 0, 8)
    loss, gradient = made.gradient(made.initial(), batch)
    model = build(dtype)
    made.layout.adopt(nn.ModuleDict({"model": model}), made.initial().clone())
    slow = functional.cross_entropy(model(task.train.x[batch.indices]), task.train.y[batch.indices])
    if l2:
        slow = slow + l2 / 2 * sum(parameter.square().sum() for parameter in model.parameters())
    slow.backward()
    assert loss == slow.item()
    assert torch.equal(gradient, torch.cat([parameter.grad.reshape(-1) for parameter in model.parameters()]))


def test_a_parameter_without_influence_has_gradient_zero():
    class Half(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.used, self.idle = nn.Linear(6, 3), nn.Linear(6, 3)

        def forward(self, x):
            return self.used(x)

    _, gradient = taken(classes(Half))
    assert gradient[:21].abs().sum() > 0
    assert gradient[21:].tolist() == [0.0] * 21


def dropping():
    return nn.Sequential(nn.Linear(6, 50), nn.Dropout(0.5), nn.Linear(50, 3))


@given(seed=st.integers(0, 100), rank=st.integers(0, 3), step=st.integers(0, 9))
@settings(deadline=None)
def test_dropout_depends_on_seed_rank_and_step_only(seed, rank, step):
    made = training(classes(dropping))
    parameters, indices = made.initial(), torch.arange(8)

    def at(*place):
        return made.gradient(parameters, Batch(indices, len(indices), ("forward", *place[1:]), Rand(place[0])))[1]

    first = at(seed, rank, step)
    before = torch.get_rng_state()
    for other in [(seed + 1, rank, step), (seed, rank + 1, step), (seed, rank, step + 1)]:
        assert not torch.equal(at(*other), first)
    assert torch.equal(at(seed, rank, step), first)
    assert torch.equal(torch.get_rng_state(), before)


def test_whether_the_module_is_stochastic_is_learnt_from_the_first_batch():
    for build, stochastic in [(dropping, True), (mlp, False)]:
        made = training(classes(build))
        taken(None, made=made)
        assert made.gradient.stochastic is stochastic


def test_an_evaluation_in_between_changes_nothing():
    made = training(classes(dropping))
    before = taken(None, made=made)
    made.evaluate(made.initial() + 1)
    loss, gradient = taken(None, made=made)
    assert loss == before[0]
    assert torch.equal(gradient, before[1])


def normalised(**settings):
    return nn.Sequential(nn.Linear(6, 4), nn.BatchNorm1d(4, **settings), nn.Linear(4, 3))


def test_refuses_a_model_that_remembers_statistics():
    with pytest.raises(TaskError) as error:
        taken(classes(normalised))
    assert str(error.value) == (
        "the model changes its buffer `1.running_mean` in training, which would be lost between workers"
        "\nhint: use GroupNorm or LayerNorm, or BatchNorm with track_running_stats=False"
    )
    taken(classes(lambda: normalised(track_running_stats=False)))


def scalar(output, y):
    return functional.cross_entropy(output, y)


HINT_MEAN = "\nhint: end the loss with `.mean()`"
HINT_KEEP = "\nhint: leave out `.item()`, `.detach()` and `no_grad`"
HINT_LOWER = "\nhint: lower the learning rate, and look for NaN or huge values in the data"


@pytest.mark.parametrize(
    ("loss", "says"),
    [
        (
            lambda output, y: functional.cross_entropy(output, y, reduction="none"),
            "the loss must be a scalar tensor, got a tensor of shape (8,)" + HINT_MEAN,
        ),
        (
            lambda output, y: scalar(output, y).reshape(1),
            "the loss must be a scalar tensor, got a tensor of shape (1,)" + HINT_MEAN,
        ),
        (
            lambda output, y: (output > 0).sum(),
            "the loss must be a scalar tensor, got a tensor of shape ()" + HINT_MEAN,
        ),
        (lambda output, y: scalar(output, y).item(), "the loss must be a scalar tensor, got 'float'" + HINT_MEAN),
        (lambda output, y: scalar(output, y) * float("nan"), "the loss is not finite (nan)" + HINT_LOWER),
        (lambda output, y: scalar(output, y) * float("inf"), "the loss is not finite (inf)" + HINT_LOWER),
        (lambda output, y: scalar(output, y) * -float("inf"), "the loss is not finite (-inf)" + HINT_LOWER),
        (
            lambda output, y: scalar(output, y).detach(),
            "the loss does not depend on the model's parameters" + HINT_KEEP,
        ),
    ],
)
def test_refuses_a_loss_that_no_gradient_can_be_taken_of(loss, says):
    with pytest.raises(TaskError) as error:
        taken(classes(loss=loss))
    assert str(error.value) == says


def failing(output, y):
    raise KeyError("weights")


def in_place(output, y):
    value = output.exp()
    loss = value.square().mean()
    value.zero_()
    return loss


def test_a_failing_loss_is_told_with_its_place():
    with pytest.raises(TaskError) as error:
        taken(classes(loss=failing))
    assert str(error.value) == f"the model or its loss failed: KeyError: 'weights' (at {line_of(failing, 'raise')})"
    assert isinstance(error.value.__cause__, KeyError)


def test_a_model_that_does_not_fit_the_data_is_told():
    with pytest.raises(
        TaskError, match=r"^the model or its loss failed: RuntimeError: mat1 and mat2 shapes cannot be multiplied"
    ):
        taken(classes(shape=(7,)))


def test_a_failing_backward_is_told():
    with pytest.raises(TaskError, match=r"^the gradient of the loss failed: RuntimeError: .* inplace operation"):
        taken(classes(loss=in_place))
