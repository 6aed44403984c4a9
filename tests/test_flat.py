from __future__ import annotations

from itertools import pairwise

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import nn

from quorate.errors import RecipeError
from quorate.flat import Layout
from tests.tiny import cnn, mlp


class Tied(nn.Module):
    """A parameter under two names, and one that is not trained."""

    def __init__(self) -> None:
        super().__init__()
        self.encode, self.decode = nn.Linear(4, 4, bias=False), nn.Linear(4, 4, bias=False)
        self.decode.weight = self.encode.weight
        self.scale = nn.Parameter(torch.ones(3), requires_grad=False)


@pytest.mark.parametrize("build", [mlp, cnn])
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_views_of_the_flat_tensor_are_the_parameters(build, dtype):
    module = build(dtype)
    layout = Layout.of(module)
    flat = layout.flatten(module)
    assert (flat.shape, flat.dtype) == ((layout.numel,), dtype)
    views, named = layout.views(flat), dict(module.named_parameters())
    assert list(views) == list(named)
    assert all(torch.equal(views[name], named[name]) for name in named)
    assert sum(view.numel() for view in views.values()) == layout.numel


def test_flatten_copies_and_adopt_shares():
    module = mlp()
    layout = Layout.of(module)
    flat = layout.flatten(module)
    before = module[0].weight.clone()
    flat.zero_()
    assert torch.equal(module[0].weight, before)
    layout.adopt(module, flat)
    flat.fill_(2.0)
    assert all(bool((parameter == 2).all()) for parameter in module.parameters())
    with torch.no_grad():
        module[2].bias.fill_(3.0)
    assert flat[-3:].tolist() == [3.0] * 3


def test_a_shared_parameter_has_one_place_and_a_frozen_one_has_none():
    assert [name for name, _, _ in Layout.of(Tied()).places] == ["encode.weight"]
    assert Layout.of(Tied()).numel == 16


def test_refuses_a_model_with_nothing_to_train():
    with pytest.raises(RecipeError, match=r"^the model has no trainable parameter$"):
        Layout.of(nn.ReLU())


def test_refuses_parameters_of_several_dtypes():
    with pytest.raises(RecipeError) as error:
        Layout.of(nn.Sequential(nn.Linear(2, 2), nn.Linear(2, 2).double()))
    assert str(error.value) == (
        "the model's parameters must have one dtype, but have torch.float32, torch.float64"
        "\nhint: convert the model, e.g. by `model.float()`"
    )


@given(cut=st.lists(st.integers(0, Layout.of(mlp()).numel), max_size=4))
def test_ranges_name_the_same_entries(cut):
    layout = Layout.of(mlp())
    flat, bounds = torch.arange(layout.numel, dtype=torch.float32), sorted([0, *cut, layout.numel])
    seen = {}
    for start, stop in pairwise(bounds):
        part = layout.between(start, stop)
        assert (part.numel, part.dtype) == (stop - start, layout.dtype)
        for name, view in part.views(flat[start:stop]).items():
            assert name not in seen
            seen[name] = view
    assert torch.equal(torch.cat([view.reshape(-1) for view in seen.values()]), flat)
    for name, view in layout.views(flat).items():
        pieces = {key: each for key, each in seen.items() if key == name or key.startswith(f"{name}[")}
        assert torch.equal(torch.cat([each.reshape(-1) for each in pieces.values()]), view.reshape(-1))
        if len(pieces) == 1:
            assert pieces[name].shape == view.shape
        for key, each in pieces.items():
            if key != name:
                first, last = map(int, key.removeprefix(f"{name}[").removesuffix("]").split(":"))
                assert torch.equal(each, view.reshape(-1)[first:last])


def test_a_range_of_everything_is_the_layout_and_one_of_nothing_is_empty():
    layout = Layout.of(cnn())
    assert layout.between(0, layout.numel) == layout
    assert layout.between(7, 7) == Layout((), 0, layout.dtype)
