from __future__ import annotations

from dataclasses import replace

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from quorate.aggregators.majority_vote import majority_vote
from quorate.codecs.adaptive import Adaptive
from quorate.codecs.chain import Chain
from quorate.codecs.error_feedback import ErrorFeedback, entries, sparsifier_of
from quorate.codecs.identity import Identity
from quorate.codecs.int8 import Int8
from quorate.codecs.power_sgd import PowerSgd
from quorate.codecs.qsgd import Qsgd
from quorate.codecs.random_k import RandomK
from quorate.codecs.sign import Sign
from quorate.codecs.terngrad import Terngrad
from quorate.codecs.top_k import TopK
from quorate.errors import RecipeError
from quorate.exchange import Exchange
from quorate.trees import leaf
from quorate.wire import Incompatible, Ragged, Wire
from tests.codecs.laws import at
from tests.tiny import randn, simulate


@given(d=st.integers(1, 40), seed=st.integers(0, 999), ratio=st.floats(0.05, 1))
def test_says_the_largest_of_update_and_residual_and_remembers_the_others(d, seed, ratio):
    feedback = ErrorFeedback(TopK(ratio))
    updates = randn(4, d, seed=seed)
    state, residual = feedback.init(updates[0]), torch.zeros(d)
    for step, update in enumerate(updates):
        total = residual + update
        head, side, state = feedback.encode(update.clone(), state, at(0, seed, step))
        indices, values = entries(feedback, head, side, update, at(0, seed, step))
        assert torch.equal(values, total[indices])
        residual = total.clone()
        residual[indices] = 0
        assert torch.equal(leaf(state, "residual"), residual)
        assert total[indices].abs().min() >= residual.abs().max() or not residual.any()


def test_momentum_is_what_the_optimizer_would_have_made_of_entries_that_are_not_said():
    """Source: Lin et al. (2018), equations 4 to 7: u = m u + g, v = v + u; both are 0 where v is said."""
    feedback, momentum = ErrorFeedback(TopK(0.25), momentum=0.5), 0.5
    updates = randn(5, 8)
    state, u, v = feedback.init(updates[0]), torch.zeros(8), torch.zeros(8)
    for step, update in enumerate(updates):
        u = momentum * u + update
        v = v + u
        said = v.abs().topk(2).indices
        head, side, state = feedback.encode(update.clone(), state, at(0, 0, step))
        indices, values = entries(feedback, head, side, update, at(0, 0, step))
        assert set(indices.tolist()) == set(said.tolist())
        torch.testing.assert_close(values, v[indices])
        u[said], v[said] = 0, 0
        torch.testing.assert_close(leaf(state, "momentum"), u)
        torch.testing.assert_close(leaf(state, "residual"), v)


def test_a_warm_up_says_a_quarter_and_then_by_equal_factors_less():
    feedback, x, counts = ErrorFeedback(TopK(0.25 / 4**3), warm_up=3), randn(1024), []
    state = feedback.init(x)
    assert isinstance(feedback.emits(x), Ragged)
    for step in range(5):
        head, _, state = feedback.encode(x.clone(), state, at(0, 0, step))
        counts.append(len(head))
    assert counts == [256, 64, 16, 4, 4]


def test_nothing_is_left_in_what_is_taken():
    x, feedback = randn(9), ErrorFeedback(Sign())
    feedback.take(x, feedback.init(x), at(0, 0))
    assert not x.any()


def test_what_was_dropped_on_its_way_is_taken_back():
    x, feedback = randn(9), ErrorFeedback(TopK(0.3))
    head, side, state = feedback.encode(x.clone(), feedback.init(x), at(0, 0))
    indices, values = entries(feedback, head, side, x, at(0, 0))
    assert torch.equal(leaf(feedback.returned(state, indices, values), "residual"), x)


def distance(codec, targets) -> float:
    """Return how far workers stay from the mean of their targets, (n, d), in least squares by what a codec says."""
    wanted = targets.mean(dim=0)

    async def program(node):
        exchange, x = Exchange(codec), torch.zeros(len(wanted))
        state = exchange.init(x)
        for step in range(400):
            gradient = x - targets[node.rank]
            combined, state = await exchange(node, gradient, state, at(node.rank, 0, step))
            x = x - 0.05 * combined
        return float((x - wanted).norm())

    return max(simulate(program, len(targets)))


def test_workers_that_remember_reach_what_all_together_would():
    """Biased signs, one bit per entry, alone stay away from the optimum; remembered ones reach it."""
    targets = torch.tensor([[6.0, -1.0, 0.1], [-2.0, -1.0, 0.3], [-1.0, 5.0, 0.2]])
    assert distance(ErrorFeedback(Sign()), targets) < 0.3 < distance(Sign(), targets)


@pytest.mark.parametrize("codec", [Qsgd(levels=1), Terngrad()], ids=str)
def test_workers_that_say_a_part_of_what_they_have_come_closer_than_without_memory(codec):
    """One level of QSGD errs by up to 8 times 64 entries, so that a ninth is said, and the rest remembered."""
    targets = randn(3, 64)
    assert codec.bound(64) > 1
    assert distance(ErrorFeedback(codec), targets) < 0.9 * distance(codec, targets) < 0.4 * float(targets.norm())


TOO_MUCH = [
    Terngrad(),
    Qsgd(),
    Qsgd(levels=1),
    Terngrad(clip=2.5),
    Chain((TopK(0.5), Qsgd(levels=2))),
    Chain((TopK(0.2), Terngrad())),
]


@pytest.mark.parametrize("codec", TOO_MUCH, ids=str)
def test_what_is_remembered_stays_bounded_although_the_codec_errs_by_more_than_the_update(codec):
    """Unscaled, `qsgd` of 7 levels remembers 10^4 times an update after 200 steps, of 1 level 10^14 times."""
    d, feedback = 4096, ErrorFeedback(codec)
    assert codec.bound(d) > 1 >= feedback.bound(d)
    state, sizes = feedback.init(torch.empty(d)), []
    for step in range(300):
        _, _, state = feedback.encode(randn(d, seed=step), state, at(0, 0, step))
        sizes.append(float(leaf(state, "residual").norm()) / d**0.5)
    delta = 1 / (1 + codec.bound(d)) * getattr(sparsifier_of(codec), "ratio", 1.0)
    assert max(sizes) <= 2 / delta  # Karimireddy et al. (2019), lemma 3: 2 sqrt(1 - delta) / delta
    assert max(sizes[200:]) <= 1.5 * max(sizes[:200])


@pytest.mark.parametrize("codec", [Terngrad(block=8), Qsgd(levels=100), TopK(0.1), Chain((TopK(0.5), Int8()))], ids=str)
def test_a_codec_that_contracts_is_not_scaled(codec):
    x, feedback = randn(64), ErrorFeedback(codec)
    head, side, _ = codec.encode(x.clone(), codec.init(x), at(0, 0))
    assert torch.equal(feedback.decode(head.clone(), side, x, at(0, 0)), codec.decode(head, side, x, at(0, 0)))
    assert feedback.bound(64) == codec.bound(64)


def test_entries_are_as_long_as_they_are_added():
    x, feedback = randn(4096), ErrorFeedback(Chain((TopK(0.2), Terngrad())))
    head, side, _ = feedback.encode(x.clone(), feedback.init(x), at(0, 0))
    indices, values = entries(feedback, head.clone(), side, x, at(0, 0))
    decoded = feedback.decode(head, side, x, at(0, 0))
    assert torch.equal(decoded[indices], values)
    assert decoded.count_nonzero() == values.count_nonzero() > 0


@pytest.mark.parametrize(
    ("make", "says"),
    [
        (lambda: ErrorFeedback(Sign(), warm_up=5), "has none\nhint: warm_up = 0"),
        (lambda: ErrorFeedback(Int8(), momentum=0.9), "says all\nhint: momentum = 0"),
    ],
)
def test_refuses_what_the_codec_has_not(make, says):
    with pytest.raises(RecipeError, match=says):
        make()


def test_stands_first_and_not_around_noise():
    with pytest.raises(Incompatible, match=r"other coordinates in every step\nhint: put \[\[codec\]\]"):
        Chain((TopK(), ErrorFeedback(Int8()))).wire(Wire())
    with pytest.raises(Incompatible, match="noise was added to hide"):
        ErrorFeedback(TopK()).wire(replace(Wire(), noisy=True))


def test_finds_the_sparsifier():
    top = TopK(0.5)
    for codec in (top, ErrorFeedback(top), Chain((top, Int8())), ErrorFeedback(Chain((top, Int8())))):
        assert sparsifier_of(codec) == top
    for codec in (Int8(), Chain(()), Chain((Identity(), top)), ErrorFeedback(Sign())):
        assert sparsifier_of(codec) is None


@pytest.mark.parametrize(
    ("codec", "says"),
    [
        (PowerSgd(), "the only codec"),
        (Adaptive(), "the only codec"),
        (ErrorFeedback(TopK()), "stands twice"),
        (RandomK(0.1, scaled=True), "grows from step to step"),
        (Chain((RandomK(0.1, scaled=True), Int8())), "grows from step to step"),
    ],
)
def test_codecs_that_can_not_be_helped_are_refused(codec, says):
    with pytest.raises(Incompatible, match=says):
        Exchange(ErrorFeedback(codec))


def test_a_codec_that_sums_by_itself_is_refused_where_each_update_is_needed():
    with pytest.raises(Incompatible, match="majority_vote needs each worker's update"):
        Exchange(PowerSgd(), majority_vote)


def test_a_codec_that_has_to_be_the_only_one_is_refused_in_a_chain():
    for codec in (Adaptive(), PowerSgd()):
        with pytest.raises(Incompatible, match="the only codec"):
            Exchange(Chain((codec, TopK())))
