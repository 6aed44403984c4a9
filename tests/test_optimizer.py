from __future__ import annotations

import subprocess
import sys

import pytest
import torch
from torch import nn
from torch.nn import functional

from quorate.errors import RecipeError
from quorate.flat import Layout
from quorate.optimizer import Optimizer, known_optimizers, torch_optimizers
from quorate.trees import flatten, nest
from tests.tiny import mlp, randn

SETTINGS = [
    ("sgd", {"lr": 0.1, "momentum": 0.9, "nesterov": True, "weight_decay": 0.01}),
    ("adam", {"lr": 0.1, "amsgrad": True, "betas": [0.8, 0.99]}),
    ("rmsprop", {"lr": 0.1, "centered": True, "momentum": 0.5}),
    ("AdamW", {"lr": 0.1, "maximize": True}),
]


def matrices():
    """A model of two matrices, because Muon takes nothing else."""
    return nn.Sequential(nn.Linear(6, 5, bias=False), nn.Tanh(), nn.Linear(5, 3, bias=False))


@pytest.mark.parametrize(("name", "settings"), [(name, {}) for name in sorted(torch_optimizers())] + SETTINGS)
def test_five_steps_have_the_bits_of_torch(name, settings):
    plain = matrices() if name == "muon" else mlp()
    layout = Layout.of(plain)
    choice = Optimizer(name, settings)
    update, step = choice.update(layout), choice.build(list(plain.parameters()))
    parameters, state = layout.flatten(plain), {}
    x, y = randn(12, 6), torch.arange(12) % 3
    for _ in range(5):
        step.zero_grad()
        functional.cross_entropy(plain(x), y).backward()
        gradient = torch.cat([parameter.grad.reshape(-1) for parameter in plain.parameters()])
        step.step()
        parameters, state = update(parameters, gradient, nest(flatten(state)))
        assert torch.equal(parameters, layout.flatten(plain))


def test_settings_are_torch_s_own():
    built = Optimizer("adam", {"betas": [0.5, 0.6], "lr": 0.25}).build([nn.Parameter(torch.zeros(2))])
    assert isinstance(built, torch.optim.Adam)
    assert (built.defaults["betas"], built.defaults["lr"]) == ((0.5, 0.6), 0.25)


def test_a_step_writes_to_parameters_and_state_and_leaves_the_gradient():
    update = Optimizer("sgd", {"lr": 0.1, "momentum": 0.9}).update(Layout.of(mlp()))
    parameters, gradient = randn(update.layout.numel), randn(update.layout.numel, seed=1)
    before = gradient.clone()
    after, state = update(parameters, gradient, {})
    assert after is parameters
    buffer = flatten(state)["momentum_buffer"]
    again, state = update(parameters, gradient, state)
    assert again is parameters
    assert flatten(state)["momentum_buffer"] is buffer
    assert torch.equal(gradient, before)


@pytest.mark.parametrize(
    ("name", "settings", "says"),
    [
        ("sdg", {}, "unknown optimizer `sdg`\nhint: did you mean `sgd`?"),
        ("Adamm", {}, "unknown optimizer `Adamm`\nhint: did you mean `adam`?"),
        ("lbfgs", {}, "optimizer `lbfgs` needs the loss more than once a step\nhint: use `sgd` or `adam`"),
        ("SparseAdam", {}, "optimizer `SparseAdam` needs sparse gradients\nhint: use `sgd` or `adam`"),
        ("sgd", {"momentun": 0.9}, "unknown setting of `sgd` `momentun`\nhint: did you mean `momentum`?"),
        ("sgd", {"params": 1}, None),
        ("sgd", {"lr": -1.0}, "optimizer `sgd` refuses its settings: Invalid learning rate: -1.0"),
        ("sgd", {"lr": "fast"}, None),
        (
            "sgd",
            {"nesterov": True},
            "optimizer `sgd` refuses its settings: Nesterov momentum requires a momentum and zero dampening",
        ),
        ("adam", {"betas": [0.9]}, None),
        ("adam", {"differentiable": True}, None),
    ],
)
def test_refuses_what_torch_would_refuse_later(name, settings, says):
    with pytest.raises(RecipeError) as error:
        Optimizer(name, settings)
    if says is None:
        assert str(error.value).startswith((f"optimizer `{name}` refuses its settings: ", "unknown setting of `sgd`"))
    else:
        assert str(error.value) == says


def test_an_unknown_optimizer_without_a_neighbour_lists_all():
    with pytest.raises(RecipeError, match="unknown optimizer `zzz`\nhint: known: `adadelta`, `adafactor`"):
        Optimizer("zzz")


def test_refuses_parameters_that_the_optimizer_can_not_take():
    with pytest.raises(RecipeError) as error:
        Optimizer("muon").update(Layout.of(mlp()))
    assert str(error.value).startswith("optimizer `muon` refuses the model's parameters: Muon only supports 2D")
    assert error.value.hint == "use `sgd` or `adam`"


@pytest.mark.parametrize("name", sorted(known_optimizers()))
def test_a_factor_multiplies_the_learning_rate(name):
    layout = Layout.of(matrices())
    parameters, gradient = randn(layout.numel), randn(layout.numel, seed=1)
    update, halved = (Optimizer(name, {"lr": lr}).update(layout) for lr in (0.125, 0.0625))
    after, _ = update(parameters.clone(), gradient, {}, 0.5)
    wanted, _ = halved(parameters.clone(), gradient, {})
    assert torch.equal(after, wanted)
    whole, _ = update(parameters.clone(), gradient, {}, 1.0)
    same, _ = update(parameters.clone(), gradient, {})
    assert torch.equal(whole, same)


def test_knows_its_learning_rate():
    assert Optimizer("sgd", {"lr": 0.25}).lr == 0.25
    assert Optimizer("adam").lr == 1e-3
    assert {"sgd", "lars", "lamb"} <= set(known_optimizers())


def test_plain_gradient_descent_does_not_load_the_compiler_of_torch():
    code = "from quorate.optimizer import Optimizer; Optimizer('sgd', {'lr': 0.1}); import sys; print(*sys.modules)"
    said = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True, timeout=120)
    assert "torch" in said.stdout.split()
    assert "torch._dynamo" not in said.stdout.split()


@pytest.mark.parametrize("value", [-0.1, float("nan"), "fast", None])
@pytest.mark.parametrize("name", ["lr", "weight_decay", "momentum"])
def test_what_torch_refuses_or_takes_of_plain_gradient_descent_it_does_not_depend_on_having_tried(name, value):
    try:
        step = torch.optim.SGD([torch.nn.Parameter(torch.zeros(1, 1))], **{name: value})
        step.param_groups[0]["params"][0].grad = torch.zeros(1, 1)
        step.step()
    except Exception:
        with pytest.raises(RecipeError, match="optimizer `sgd` refuses its settings"):
            Optimizer("sgd", {name: value})
    else:
        assert Optimizer("sgd", {name: value}).settings == {name: value}
