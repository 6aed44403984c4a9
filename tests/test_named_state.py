from __future__ import annotations

import importlib

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import nn

from quorate import parts
from quorate.codecs.error_feedback import ErrorFeedback
from quorate.codecs.top_k import TopK
from quorate.exchange import Meeting
from quorate.flat import Layout
from quorate.named_state import copied, joined, misfit, of_newcomer, split
from quorate.rand import At, Rand
from quorate.trees import flatten, leaves, nest
from tests.codecs.test_laws import of_name
from tests.tiny import mlp, randn

LAYOUT = Layout.of(mlp())
PARAMETERS = {"0.weight", "0.bias", "2.weight", "2.bias"}
leaf_of = st.sampled_from(["whole", "range", "scalar", "matrix", "count"])
trees = st.recursive(
    leaf_of,
    lambda each: st.dictionaries(st.sampled_from(["a", "residual", "1", "said"]), each, min_size=1),
    max_leaves=6,
).filter(lambda tree: not isinstance(tree, str))


def made(tree):
    """Fill a tree of kinds of leaves with tensors."""
    d = LAYOUT.numel
    kinds = {"whole": randn(d), "range": randn(d // 2), "scalar": torch.tensor(3.0), "matrix": randn(d, 1)}
    kinds["count"] = torch.arange(d)
    return {key: kinds[each].clone() if isinstance(each, str) else made(each) for key, each in tree.items()}


def assert_equal(one, other):
    one, other = flatten(one), flatten(other)
    assert one.keys() == other.keys()
    assert all(torch.equal(one[name], other[name]) and one[name].dtype == other[name].dtype for name in one)


@given(tree=trees)
def test_joined_is_what_was_split_also_by_way_of_a_file(tree):
    own = {"exchange": made(tree), "parameters": randn(LAYOUT.numel)}
    after = split(own, LAYOUT)
    assert_equal(joined(after, LAYOUT), own)
    assert_equal(joined(nest(flatten(after)), LAYOUT), own)
    assert_equal(joined(own, LAYOUT), own)
    assert after["parameters"] is own["parameters"]
    assert not any(tensor.shape == (LAYOUT.numel,) for _, tensor in leaves(after["exchange"]))


def test_residuals_have_the_names_and_shapes_of_the_parameters():
    state = ErrorFeedback(TopK(0.1), momentum=0.9).init(randn(LAYOUT.numel))
    named = flatten(split({"exchange": {"3": state}}, LAYOUT))
    for kind in ("residual", "momentum"):
        held = {name.removeprefix(f"exchange.3.{kind}."): tensor for name, tensor in named.items() if kind in name}
        assert set(held) == PARAMETERS
        assert held["0.weight"].shape == (5, 6)


def test_a_model_of_one_parameter_is_no_special_case():
    layout = Layout.of(nn.Linear(3, 1, bias=False))
    own = {"exchange": {"residual": randn(3)}}
    assert flatten(split(own, layout))["exchange.residual.weight"].shape == (1, 3)
    assert_equal(joined(split(own, layout), layout), own)


def test_what_codecs_keep_is_copied_and_nothing_else():
    own = {"exchange": {"residual": randn(4)}, "parameters": randn(4)}
    after = copied(own)
    own["exchange"]["residual"].zero_()
    assert torch.equal(after["exchange"]["residual"], randn(4))
    assert after["parameters"] is own["parameters"]
    again = joined(after, LAYOUT)
    after["exchange"]["residual"].zero_()
    assert torch.equal(again["exchange"]["residual"], randn(4))


def test_a_newcomer_does_not_say_again_what_another_has_still_to_say():
    own = {"exchange": {"0": {"residual": randn(4), "momentum": randn(4), "q": randn(2)}}, "local": randn(4)}
    after = of_newcomer(own)
    assert after["exchange"]["0"]["residual"].tolist() == after["exchange"]["0"]["momentum"].tolist() == [0] * 4
    assert torch.equal(after["exchange"]["0"]["q"], randn(2))
    assert torch.equal(after["local"], randn(4))
    assert own["exchange"]["0"]["residual"].any()


@pytest.mark.parametrize(
    ("given_state", "held", "says"),
    [
        ({"a": torch.zeros(2)}, {"a": torch.zeros(2)}, None),
        ({"a": torch.zeros(2)}, {"a": torch.zeros(2), "b": torch.zeros(2)}, None),
        ({"a": torch.zeros(2)}, {"a": torch.zeros(3)}, "`a` differs"),
        ({"a": torch.zeros(2)}, {"a": torch.zeros(2, dtype=torch.float64)}, "`a` differs"),
        ({"a": {"b": torch.zeros(2)}}, {}, "`a.b` differs"),
        ({"exchange": {"r": torch.zeros(2)}}, {}, "it is of other codecs, which remember `exchange.r`"),
        ({"exchange": {}}, {"exchange": {"r": torch.zeros(2)}}, "it is of other codecs, which remember `exchange.r`"),
        ({"exchange": {}}, {}, None),
        ({}, {"exchange": {"r": torch.zeros(2)}}, None),
    ],
)
def test_says_what_does_not_fit(given_state, held, says):
    found = misfit(given_state, held)
    assert (found[0] if found else None) == says


@pytest.mark.parametrize("name", sorted(parts.names("codec")))
@settings(max_examples=5)
@given(d=st.integers(2, 40), seed=st.integers(0, 999))
def test_what_a_codec_remembers_keeps_its_names_so_that_another_codec_s_is_told_from_it(name, d, seed):
    importlib.import_module(f"quorate.codecs.{name}")
    for codec in of_name(name):
        if isinstance(codec, Meeting) or name == "adaptive":
            continue
        begun = codec.init(randn(d))
        names = {key: tensor.shape for key, tensor in leaves(begun)}
        _, _, after = codec.encode(randn(d, seed=seed), begun, At(0, 0, 2, Rand(seed)))
        assert {key: tensor.shape for key, tensor in leaves(after)} == names
