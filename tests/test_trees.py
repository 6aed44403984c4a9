from __future__ import annotations

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from quorate.trees import branch, flatten, leaf, leaves, map_tree, nest

tensors = st.integers(0, 99).map(lambda value: torch.tensor([value]))
names = st.text("abc/", min_size=1, max_size=3)
trees = st.recursive(
    st.dictionaries(names, tensors, min_size=1, max_size=3),
    lambda inner: st.dictionaries(names, tensors | inner, min_size=1, max_size=3),
    max_leaves=8,
)


@given(tree=trees)
@settings(deadline=None)
def test_nest_inverts_flatten(tree):
    assert nest(flatten(tree)) == tree


@given(tree=trees)
@settings(deadline=None)
def test_leaves_come_in_one_order_whatever_the_order_of_insertion(tree):
    def backwards(node):
        return node if isinstance(node, torch.Tensor) else {key: backwards(node[key]) for key in reversed(node)}

    assert [name for name, _ in leaves(tree)] == [name for name, _ in leaves(backwards(tree))]
    assert list(flatten(tree).values()) == [tensor for _, tensor in leaves(tree)]


@given(tree=trees)
@settings(deadline=None)
def test_map_tree_reaches_every_tensor_and_keeps_the_names(tree):
    doubled = flatten(map_tree(lambda tensor: 2 * tensor, tree))
    assert doubled == {name: 2 * tensor for name, tensor in leaves(tree)}


def test_an_empty_branch_is_lost_and_read_as_empty():
    assert nest(flatten({"optimizer": {}})) == {}
    assert branch({}, "optimizer") == {}


def test_a_branch_is_no_leaf():
    tree = {"a": torch.zeros(1), "b": {}}
    assert leaf(tree, "a") is tree["a"]
    assert branch(tree, "b") is tree["b"]
    with pytest.raises(TypeError, match="a is a tensor, not a branch"):
        branch(tree, "a")
    with pytest.raises(TypeError, match="b is a branch, not a tensor"):
        leaf(tree, "b")
