"""Laws of every robust aggregator, by itself and after every pre-aggregator; a new file is tested unasked.

An aggregator F is (f, kappa)-robust if, for any n updates and all S of n - f of them, |F - mean of S|^2 is at most
kappa times the mean of |x_i - mean of S|^2 over S. Source: Allouah, Farhadkhani, Guerraoui, Gupta, Pinot and Stephan,
"Fixing by mixing: a recipe for optimal Byzantine ML under heterogeneity", AISTATS 2023, definition 2.
"""

from __future__ import annotations

from itertools import combinations

import pytest
import torch
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from quorate import parts
from quorate.aggregators import claimed, most_of
from quorate.aggregators._blocks import BLOCK
from quorate.errors import RunError
from tests.aggregators.robust import LIES, PRE, ROBUST, allowed, examples, meeting, pre_rule, rule
from tests.threads import on_threads
from tests.tiny import randn

KAPPA = {
    # Source as above, table 1.
    "trimmed_mean": lambda n, f: 6 * f / (n - 2 * f) * (1 + f / (n - 2 * f)),
    "median": lambda n, f: 4 * (1 + f / (n - 2 * f)) ** 2,
    "geometric_median": lambda n, f: 4 * (1 + f / (n - 2 * f)) ** 2,
    # As there, but over the n - f - 2 nearest others, n - 2f - 1 of which, with itself, are honest. The scores of the
    # n - f best sum up to no more than those of the honest, so that their mean obeys the same bound.
    "krum": lambda n, f: 6 * (n - f) / (n - 2 * f - 1),
    "multi_krum": lambda n, f: 6 * (n - f) / (n - 2 * f - 1),
    # f values are exchanged for others that are at most twice the diameter of S away, diameter^2 <= 2 sum over S.
    "meamed": lambda n, f: 8 * f**2 / (n - f),
    "mda": lambda n, f: 8 * f**2 / (n - f),
    # Both means are within sqrt(f / (n - 2f) * largest eigenvalue of the covariance in S) of that of the intersection.
    "smea": lambda n, f: 4 * f / (n - 2 * f),
}
UNBOUNDED = {
    "bulyan": "no constant is known to us",
    "caf": "its constant could not be checked",
    "centered_clipping": "depends on where it starts and on the radius",
    "monna": "only for sets that hold the own update",
}
"""Rules whose constant is not known, and why."""
KAPPA_AFTER = {
    # Lemma 1 of the same source.
    "nearest_neighbor_mixing": lambda n, f, kappa: 8 * f / (n - f) * (kappa + 1),
    # See `quorate.pre_aggregators.adaptive_clipping`.
    "adaptive_clipping": lambda n, f, kappa: kappa + 2 * f / (n - 2 * f),
}
UNBOUNDED_AFTER = {
    "bucketing": "holds on average over permutations only",
    "norm_clipping": "moves honest updates by any amount",
}
"""Pre-aggregators that keep no worst-case constant, and why."""

names = pytest.mark.parametrize("name", ROBUST)
few = settings(max_examples=6, suppress_health_check=[HealthCheck.too_slow])
drawn = given(
    n=st.integers(7, 9), most=st.integers(0, 4), seed=st.integers(0, 10**6), lie=st.sampled_from(sorted(LIES))
)
HUGE = {"1e38", "1e38 of any sign", "largest", "different", "squares overflow", "one coordinate"}
"""Lies in which a shift is lost by rounding."""
PAIRS = [(name, None) for name in ROBUST] + [
    (name, before) for name in ROBUST for before in PRE if (name, before) != ("monna", "bucketing")
]
"""All but MoNNA after bucketing, which leaves nobody's own update where it was."""
pairs = pytest.mark.parametrize(("name", "before"), PAIRS)


def after(name, before, n, most, scale=1.0, seed=0):
    """Return an aggregator after a pre-aggregator, if any, for n updates, and the f that both allow."""
    made, f = None, allowed(name, n, most)
    if before == "bucketing":
        f = allowed(name, len(pre_rule(before, 0)(torch.zeros(n, 1))), f)
    elif before is not None:
        f = max(0, min(f, getattr(parts.find("pre_aggregator", before), "most", lambda n: n)(n)))
    made = rule(name, f, scale)
    if before is None:
        return made, f
    prepared = pre_rule(before, f, scale, seed)
    return lambda updates: made(prepared(updates)), f


def own_of(name):
    """Return the place of the update that an aggregator trusts; None if it has none."""
    setting = parts.settings(parts.find("aggregator", name)).get("own")
    return None if setting is None else getattr(examples("aggregator", name)[0], "keywords", {}).get("own", 0)


def trusting(name, updates, honest):
    """Put an honest update where an aggregator trusts it, if it trusts one."""
    own = own_of(name)
    if own is not None and own not in honest:
        updates[[own, honest[0]]] = updates[[honest[0], own]]
        honest = sorted([own, *honest[1:]])
    return updates, honest


def close(a, b, tolerance=1e-7):
    torch.testing.assert_close(a, b, rtol=tolerance, atol=tolerance)


def exactness(name):
    """Return how exactly an aggregator follows its input; caf amplifies rounding, step by step of its filter."""
    return 1e-3 if name == "caf" else 1e-7


def test_every_rule_is_found_and_has_a_constant_or_a_reason():
    assert {"median", "trimmed_mean", "meamed", "centered_clipping"} <= set(ROBUST)
    assert {"bucketing", "norm_clipping", "adaptive_clipping"} <= set(PRE)
    assert set(ROBUST) <= set(KAPPA) | set(UNBOUNDED)
    assert set(PRE) <= set(KAPPA_AFTER) | set(UNBOUNDED_AFTER)


@pairs
@few
@drawn
def test_follows_shifts_and_scales(name, before, n, most, seed, lie):
    """Clipping by norms, which are about 0, follows no shifts."""
    combined, f = after(name, before, n, most, seed=seed)
    lie = "far" if lie in HUGE else lie
    updates, honest = meeting(lie, n, 3, f, seed, torch.float64)
    updates, _ = trusting(name, updates, honest)
    shift = randn(3, seed=seed + 2, dtype=torch.float64)
    right = combined(updates)
    if before not in ("norm_clipping", "adaptive_clipping"):
        close(combined(updates + shift), right + shift, exactness(name))
    for scale in (-4.0, 1e-3):
        found = after(name, before, n, most, abs(scale), seed)[0](scale * updates)
        close(found / scale, right, exactness(name))


@names
@few
@drawn
def test_the_order_of_workers_does_not_matter(name, n, most, seed, lie):
    f = allowed(name, n, most)
    updates, _ = trusting(name, *meeting(lie, n, 3, f, seed, torch.float64))
    order = torch.randperm(n, generator=torch.Generator().manual_seed(seed + 1)).tolist()
    if (own := own_of(name)) is not None:
        order.remove(own)
        order.insert(own, own)
    close(rule(name, f)(updates[order]), rule(name, f)(updates), exactness(name))


@pairs
@few
@drawn
def test_is_f_kappa_robust(name, before, n, most, seed, lie):
    if name in UNBOUNDED or before in UNBOUNDED_AFTER:
        combined, f = after(name, before, n, most, seed=seed)
        assert combined(meeting("far", n, 3, f, seed, torch.float64)[0]).isfinite().all()
        return
    combined, f = after(name, before, n, most)
    updates, honest = meeting(lie, n, 3, f, seed, torch.float64)
    found, kappa = combined(updates), KAPPA[name](n, f)
    if before is not None:
        kappa = KAPPA_AFTER[before](n, f, kappa)
    finite = [row for row in range(n) if updates[row].isfinite().all()]
    for chosen in [honest, *combinations(finite, n - f)]:
        mean = updates[list(chosen)].mean(dim=0)
        spread = (updates[list(chosen)] - mean).square().sum(dim=1).mean()
        assert (found - mean).square().sum() <= (kappa + 1e-9) * spread * (1 + 1e-6) + 1e-20


@pairs
@few
@drawn
def test_f_liars_move_it_no_further_than_the_honest_updates_reach(name, before, n, most, seed, lie):
    """In float32, where 1e38 has no square; clipping may also pull what it returns towards 0."""
    combined, f = after(name, before, n, most, seed=seed)
    updates, honest = trusting(name, *meeting(lie, n, 5, f, seed, torch.float32))
    before_it = updates.clone()
    found, said = combined(updates), updates[honest].double()
    assert found.isfinite().all()
    assert found.dtype == torch.float32
    assert torch.equal(updates.nan_to_num(nan=7.0), before_it.nan_to_num(nan=7.0))
    reach = torch.cdist(said, said).max() * (2 * n**0.5 + 2)
    if before in ("norm_clipping", "adaptive_clipping"):
        reach += 2 * said.norm(dim=1).max()
    assert (found.double() - said.mean(dim=0)).norm() <= reach


@names
@few
@drawn
def test_of_honest_updates_that_agree_is_what_they_say(name, n, most, seed, lie):
    f = allowed(name, n, most)
    said = randn(1, 4, seed=seed)
    liars = LIES[lie](said + 0.01 * randn(n - f, 4, seed=seed), f)
    updates, honest = torch.cat([liars, said.repeat(n - f, 1)]), list(range(f, n))
    updates, _ = trusting(name, updates, honest)
    found = rule(name, f)(updates)
    if name == "centered_clipping":
        settings = examples("aggregator", name)[0].keywords
        assert (found - said[0]).norm() <= settings["radius"] * settings.get("steps", 1) * f / n + 1e-5
    else:
        close(found, said[0], 1e-5)


@names
def test_of_updates_of_which_many_are_the_same(name):
    f = allowed(name, 9, 2)
    updates = randn(3, 4, dtype=torch.float64)[[0, 0, 0, 1, 1, 1, 2, 2, 2]]
    found = rule(name, f)(updates)
    assert (found - updates.mean(dim=0)).norm() <= torch.cdist(updates, updates).max()
    close(rule(name, f)(torch.zeros(9, 4)), torch.zeros(4))
    close(rule(name, f)(torch.full((9, 4), 1e-45)), torch.zeros(4))


@names
@pytest.mark.parametrize("n", [7, 12])
def test_an_f_that_the_theorem_does_not_allow_is_refused_with_a_hint(name, n):
    function, updates = parts.find("aggregator", name), randn(n, 4)
    most = most_of(function, n)
    rule(name, most)(updates)
    for f in (most + 1, n, -1):
        with pytest.raises(RunError, match=f"^{name} ") as refused:
            rule(name, f)(updates)
        assert refused.value.hint == f"set f = {most}"
    assert claimed(rule(name, most)) == most


@names
def test_more_updates_that_are_not_finite_than_f_are_refused_by_name(name):
    f, updates = allowed(name, 9, 1), randn(9, 4)
    updates[3, 1], updates[5], updates[8, 0] = torch.nan, torch.inf, -torch.inf
    with pytest.raises(RunError, match=r"3 of 9 updates are not finite.*ranks \[3, 5, 8\]"):
        rule(name, f)(updates)


@names
def test_weights_are_checked_and_have_no_say(name):
    updates, f = randn(9, 4), allowed(name, 9, 1)
    weights = torch.tensor([1e9, *[1.0] * 8])
    assert torch.equal(rule(name, f)(updates, weights), rule(name, f)(updates))
    for wrong in ([1.0] * 8, [-1.0] * 9, [0.0] * 9, [torch.nan] * 9, [torch.inf] * 9):
        with pytest.raises(ValueError, match=f"^{name} needs 9 weights"):
            rule(name, f)(updates, torch.tensor(wrong))


@names
def test_the_same_bits_on_any_number_of_threads(name):
    updates, f, found = randn(7, 2 * BLOCK + 11), allowed(name, 7, 2), []
    for threads in (1, 2, 3):
        with on_threads(threads):
            found.append(rule(name, f)(updates))
    assert torch.equal(found[0], found[1])
    assert torch.equal(found[0], found[2])


@names
@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16])
def test_half_precision_is_computed_in_single(name, dtype):
    updates, f = randn(9, 40).to(dtype), allowed(name, 9, 2)
    found = rule(name, f)(updates)
    assert found.dtype == dtype
    close(found.float(), rule(name, f)(updates.float()).to(dtype).float(), 2 * torch.finfo(dtype).eps)
