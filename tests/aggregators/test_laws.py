"""Laws of every aggregator; a new file in `quorate/aggregators` is tested unasked.

Instances come from the module's `EXAMPLES`, or are the function itself.
"""

from __future__ import annotations

import importlib
import inspect
from functools import partial

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from quorate import parts
from quorate.aggregators import name_of, what_it_needs
from quorate.wire import Opens
from tests.tiny import randn

NAMES = sorted(parts.names("aggregator"))
LEAST = 7  # updates that the examples must work on
VOTES = {"majority_vote"}
"""Those whose result is no update, but signs."""


def examples(name):
    """Return the instances of an aggregator that its laws are checked on."""
    module, function = importlib.import_module(f"quorate.aggregators.{name}"), parts.find("aggregator", name)
    given_by_author = getattr(module, "EXAMPLES", ())
    if not given_by_author:
        needed = [each.name for each in parts.settings(function).values() if each.default is inspect.Parameter.empty]
        assert not needed, f"{module.__name__} needs EXAMPLES, made by functools.partial({name}, {needed[0]}=...)"
    return given_by_author or (function,)


draws = given(n=st.integers(LEAST, 12), d=st.integers(1, 9), seed=st.integers(0, 10**6), number=st.integers(0, 99))
laws = [pytest.mark.parametrize("name", NAMES), draws, settings(deadline=None, max_examples=25)]


def law(test):
    """Check on every aggregator, for updates of any number and length."""
    for each in reversed(laws):
        test = each(test)
    return test


def drawn(name, n, d, seed, number):
    """Return one of an aggregator's instances, updates (n, d) and weights (n,), both float64."""
    instances = examples(name)
    updates = randn(n, d, seed=seed, dtype=torch.float64)
    return instances[number % len(instances)], updates, randn(n, seed=seed + 1, dtype=torch.float64).abs() + 0.01


def scaled(aggregate, scale):
    """Return an aggregator in a unit in which the updates are so many times as large: its radius, if any, is too."""
    keywords = getattr(aggregate, "keywords", {})
    return partial(aggregate, radius=abs(scale) * keywords["radius"]) if "radius" in keywords else aggregate


def reordered(aggregate, n, seed):
    """Draw an order of n workers in which the one whose update an aggregator trusts, if any, keeps its place."""
    order = torch.randperm(n, generator=torch.Generator().manual_seed(seed)).tolist()
    trusts = {**parts.settings(getattr(aggregate, "func", aggregate)), **getattr(aggregate, "keywords", {})}.get("own")
    if trusts is not None:
        own = getattr(trusts, "default", trusts)
        order.remove(own)
        order.insert(own, own)
    return order


def close(a, b):
    torch.testing.assert_close(a, b, rtol=1e-9, atol=1e-9)


def test_the_folder_is_found():
    assert "mean" in NAMES


@law
def test_the_order_of_workers_does_not_matter(name, n, d, seed, number):
    aggregate, updates, weights = drawn(name, n, d, seed, number)
    order = reordered(aggregate, n, seed)
    close(aggregate(updates[order]), aggregate(updates))
    close(aggregate(updates[order], weights[order]), aggregate(updates, weights))


@law
def test_moves_along_with_the_updates(name, n, d, seed, number):
    aggregate, updates, weights = drawn(name, n, d, seed, number)
    if name in VOTES:
        close(aggregate(-3 * updates), -aggregate(updates))
        return
    shift = randn(d, seed=seed + 2, dtype=torch.float64)
    for along in (None, weights):
        close(aggregate(updates + shift, along), aggregate(updates, along) + shift)
        close(scaled(aggregate, -3)(-3 * updates, along), -3 * aggregate(updates, along))


@law
def test_equal_weights_of_any_size_are_no_weights(name, n, d, seed, number):
    aggregate, updates, _ = drawn(name, n, d, seed, number)
    for weight in (1.0, 0.2, 1 / n, 50.0):
        close(aggregate(updates, torch.full((n,), weight, dtype=torch.float64)), aggregate(updates))


@law
def test_keeps_dtype_and_length_and_writes_to_nothing(name, n, d, seed, number):
    aggregate, updates, weights = drawn(name, n, d, seed, number)
    for dtype in (torch.float32, torch.float64):
        given_updates, given_weights = updates.to(dtype), weights.clone()
        combined = aggregate(given_updates, given_weights)
        assert (combined.shape, combined.dtype) == ((d,), dtype)
        combined.zero_()
        assert torch.equal(given_updates, updates.to(dtype))
        assert torch.equal(given_weights, weights)


@law
def test_of_equal_updates_is_that_update(name, n, d, seed, number):
    aggregate, updates, weights = drawn(name, n, d, seed, number)
    said = updates[0].sign() if name in VOTES else updates[0]
    close(aggregate(updates[:1].repeat(n, 1), weights), said)


@pytest.mark.parametrize("name", NAMES)
def test_declares_what_it_needs_and_its_name(name):
    for aggregate in examples(name):
        assert what_it_needs(aggregate) in Opens
        assert name_of(aggregate) == name
