from __future__ import annotations

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import nn

from quorate.codecs.chain import Chain
from quorate.codecs.error_feedback import ErrorFeedback
from quorate.codecs.power_sgd import PowerSgd
from quorate.codecs.top_k import TopK
from quorate.collectives.direct import direct
from quorate.errors import RecipeError
from quorate.exchange import Exchange, Meeting
from quorate.flat import Layout
from quorate.rand import At, Rand
from quorate.trace import Trace
from quorate.trees import flatten, nest
from quorate.wire import Incompatible, size_in_bytes
from tests.tiny import randn, simulate

MODEL = nn.Sequential(nn.Conv2d(3, 8, 3), nn.Conv2d(8, 16, 3), nn.Linear(20, 30), nn.Linear(30, 20), nn.Linear(20, 30))
LAYOUT = Layout.of(MODEL)


def run(codec, updates, weights=None, states=None, first=0, collective=None, **simulator):
    """Let workers meet once for each update of (steps, n, d); return (what each got in each step, states)."""
    steps, n, _ = updates.shape
    exchange = Exchange(codec) if collective is None else Exchange(codec, collective=collective)

    async def program(node):
        state = exchange.init(updates[0, 0]) if states is None else nest(flatten(states[node.rank]))
        got = []
        for step in range(steps):
            at = At(first + step, node.rank, n, Rand(5))
            combined, state = await exchange(node, updates[step, node.rank].clone(), state, at, weights)
            got.append(combined.clone())
        return torch.stack(got), state

    ends = simulate(program, n, **simulator)
    return [got for got, _ in ends], [state for _, state in ends]


def orthonormal(p):
    return torch.linalg.qr(p).Q


def by_the_book(updates, layout, rank, q):
    """Algorithms 1 and 2 of the source, one matrix and one worker at a time; q by parameter name."""
    _, n, _ = updates.shape
    errors = torch.zeros_like(updates[0])
    combined = []
    for step in updates:
        deltas = [layout.views(step[worker] / n + errors[worker]) for worker in range(n)]
        out = {}
        for name, shape, _ in layout.places:
            matrices = [delta[name].reshape(shape[0], -1) for delta in deltas]
            if name not in q:
                out[name] = sum(matrices)
                continue
            p = orthonormal(sum(matrix @ q[name] for matrix in matrices))
            said = [matrix.mT @ p for matrix in matrices]
            q[name] = sum(said)
            out[name] = p @ q[name].mT
            for worker, mine in enumerate(said):
                deltas[worker][name] -= (p @ mine.mT).view(shape)
        for worker, delta in enumerate(deltas):
            errors[worker] = torch.cat([(delta[name] if name in q else 0 * delta[name]).reshape(-1) for name in out])
        combined.append(torch.cat([each.reshape(-1) for each in out.values()]))
    return torch.stack(combined), errors


def started(codec, d, dtype):
    """Return the factors that a codec starts from, by parameter name."""
    plan, state = codec.plan(d), codec.init(torch.zeros(d, dtype=dtype))
    q = {}
    names = {offset: name for name, _, offset in LAYOUT.places}
    for stack, factors in zip(plan.stacks, plan.factors(state["q"], True, codec.rank), strict=True):
        for number in range(stack.number):
            q[names[stack.offset + number * stack.spacing]] = factors[number].mT.clone()
    return q


@pytest.mark.parametrize("rank", [1, 2, 7])
@pytest.mark.parametrize("collective", [None, direct])
def test_agrees_with_the_definition(rank, collective):
    updates = randn(4, 3, LAYOUT.numel, dtype=torch.float64)
    codec = PowerSgd(rank).laid_out(LAYOUT)
    q = started(codec, LAYOUT.numel, torch.float64)
    assert len(q) == (5 if rank < 7 else 4)  # the first convolution is (8, 27)
    wanted, errors = by_the_book(updates, LAYOUT, rank, q)
    got, states = run(codec, updates, collective=collective)
    for worker in range(3):
        torch.testing.assert_close(got[worker], wanted)
        torch.testing.assert_close(states[worker]["residual"], errors[worker])


codecs = st.builds(
    lambda rank, kind: PowerSgd(rank, *kind),
    st.integers(1, 3),
    st.sampled_from(
        [(True, True, False), (True, True, True), (False, True, False), (True, False, False), (True, False, True)]
    ),
)


@given(codec=codecs, d=st.integers(0, 90), n=st.integers(1, 4), seed=st.integers(0, 999), weighted=st.booleans())
@settings(deadline=None, max_examples=60)
def test_all_workers_get_the_same_bits_and_what_is_said_and_left_is_the_weighted_mean(codec, d, n, seed, weighted):
    updates = randn(3, n, d, seed=seed, dtype=torch.float64)
    raw = [1.0 + rank for rank in range(n)]
    weights = tuple(each / sum(raw) for each in raw) if weighted else None
    got, states = run(codec, updates, weights)
    assert all(torch.equal(each, got[0]) for each in got)
    assert all(torch.equal(state["q"], states[0]["q"]) for state in states if "q" in state)
    share = torch.tensor(weights or [1 / n] * n, dtype=torch.float64)
    if codec.error_feedback and d:
        given_in = (share[:, None] * updates.sum(dim=0)).sum(dim=0)
        torch.testing.assert_close(got[0].sum(dim=0) + sum(state["residual"] for state in states), given_in)
    mean = (share[:, None] * updates[0]).sum(dim=0)
    assert (got[0][0] - mean).norm() <= codec.bound(d) * mean.norm() * (1 + 1e-9)


@pytest.mark.parametrize("alternate", [False, True])
def test_what_has_low_rank_is_found_in_a_few_steps(alternate):
    """A gradient that stays the same is said in full by power iteration, with no need of what was left."""
    layout = Layout((("matrix", torch.Size((40, 30)), 0),), 1200, torch.float64)
    low = (randn(40, 2, dtype=torch.float64) @ randn(2, 30, seed=1, dtype=torch.float64)).reshape(-1)
    codec = PowerSgd(2, error_feedback=False, alternate=alternate).laid_out(layout)
    got, _ = run(codec, low.expand(3, 2, -1).clone())
    assert (got[0][-1] - low).norm() < 1e-9 * low.norm()


def test_error_feedback_says_everything_in_time():
    """The mean of what is said tends to the update, even by factors of rank 1."""
    update = randn(1, 2, LAYOUT.numel, dtype=torch.float64).expand(200, -1, -1)
    got, _ = run(PowerSgd().laid_out(LAYOUT), update.clone())
    mean = update[0].mean(dim=0)
    errors = [float((got[0][:steps].mean(dim=0) - mean).norm() / mean.norm()) for steps in (10, 200)]
    assert errors[1] < 0.2 * errors[0]


@given(codec=codecs, value=st.sampled_from([0.0, 1.0, -1e-30, 1e30]), d=st.integers(1, 60))
@settings(deadline=None, max_examples=40)
def test_constant_updates_and_those_of_nothing_but_zeros_make_no_nan(codec, value, d):
    updates = torch.full((4, 2, d), value)
    updates[3] = 1.0
    got, states = run(codec, updates)
    assert all(bool(torch.isfinite(each).all()) for each in got)
    assert all(bool(torch.isfinite(tensor).all()) for state in states for tensor in flatten(state).values())


def test_it_recovers_from_steps_without_a_gradient():
    layout = Layout((("matrix", torch.Size((40, 30)), 0),), 1200, torch.float64)
    one = torch.outer(torch.ones(40), torch.arange(30.0)).reshape(-1).double()
    steps = torch.stack([0 * one, 0 * one, one, one, one])[:, None]
    got, _ = run(PowerSgd(error_feedback=False).laid_out(layout), steps)
    assert (got[0][-1] - one).norm() < 1e-9 * one.norm()


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64, torch.bfloat16, torch.float16])
def test_any_floating_type_is_kept(dtype):
    updates = randn(3, 2, 400).to(dtype)
    got, states = run(PowerSgd(2), updates)
    assert got[0].dtype == dtype
    assert {tensor.dtype for tensor in flatten(states[0]).values()} == {dtype}
    assert bool(torch.isfinite(got[0].float()).all())


@given(codec=codecs, split=st.integers(1, 4))
@settings(deadline=None, max_examples=20)
def test_it_goes_on_from_a_checkpoint_to_the_bit(codec, split):
    updates = randn(5, 2, 130)
    straight, ends = run(codec, updates)
    before, states = run(codec, updates[:split])
    after, again = run(codec, updates[split:], states=states, first=split)
    assert torch.equal(torch.cat([before[1], after[1]]), straight[1])
    for one, other in zip(ends, again, strict=True):
        assert flatten(one).keys() == flatten(other).keys()
        assert all(torch.equal(flatten(one)[key], flatten(other)[key]) for key in flatten(one))


@pytest.mark.parametrize("codec", [PowerSgd(2), PowerSgd(2, alternate=True), PowerSgd(error_feedback=False)])
def test_nobody_writes_where_he_may_not(codec):
    updates = randn(3, 3, LAYOUT.numel)
    checked, _ = run(codec.laid_out(LAYOUT), updates, paranoid=True)
    plain, _ = run(codec.laid_out(LAYOUT), updates)
    assert torch.equal(checked[2], plain[2])


@pytest.mark.parametrize(("codec", "meetings"), [(PowerSgd(2), 2), (PowerSgd(2, alternate=True), 1)])
def test_meets_as_often_and_says_as_much_as_declared(codec, meetings):
    trace, codec = Trace(2), codec.laid_out(LAYOUT)
    updates = randn(2, 2, LAYOUT.numel)
    run(codec, updates, collective=direct, trace=trace)
    assert trace.sent_messages[0] == 2 * meetings
    said = size_in_bytes(codec.emits(updates[0, 0]))
    assert 0.8 * 2 * said <= trace.sent_bytes[0] <= 2 * said
    assert said < size_in_bytes((updates[0, 0],)) / 3


def test_a_strided_update_is_no_matter():
    updates = randn(1, 2, 200)
    got, _ = run(PowerSgd(), updates)

    async def program(node):
        exchange = Exchange(PowerSgd())
        every_other = torch.stack([updates[0, node.rank]] * 2, dim=1)[:, 0]
        assert not every_other.is_contiguous()
        return (await exchange(node, every_other, exchange.init(every_other), At(0, node.rank, 2, Rand(5))))[0]

    assert torch.equal(simulate(program, 2)[0], got[0][0])


def test_is_a_meeting_of_all_and_stands_alone():
    assert isinstance(PowerSgd(), Meeting)
    assert Exchange(PowerSgd()).sums_in_flight
    for wrapped in (ErrorFeedback(PowerSgd()), Chain((PowerSgd(), TopK(0.1)))):
        with pytest.raises(Incompatible) as error:
            wrapped.encode(torch.ones(9), wrapped.init(torch.ones(9)), At(0, 0, 2, Rand(0)))
        assert str(error.value).startswith("power_sgd needs")
        assert '"synchronous_sgd"' in str(error.value)
    with pytest.raises(Incompatible, match="needs to be the only codec"):
        Exchange(Chain((TopK(0.1), PowerSgd())))


def test_refuses_to_alternate_between_factors_that_are_not_kept():
    with pytest.raises(RecipeError, match="warm_start = true"):
        PowerSgd(warm_start=False, alternate=True)
