"""Training under redundancy codes: with as many liars as a code withstands, the parameters of a run without any."""

from __future__ import annotations

from functools import partial
from math import inf, isnan

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from quorate.attacks import Attack
from quorate.attacks.alie import Alie
from quorate.attacks.constant import Constant
from quorate.attacks.crash import Crash
from quorate.attacks.gaussian import Gaussian
from quorate.attacks.huge import Huge
from quorate.attacks.label_flip import LabelFlip
from quorate.attacks.not_finite import NotFinite
from quorate.attacks.reversed_gradient import ReversedGradient
from quorate.attacks.sign_flip import SignFlip
from quorate.codes.detox import Detox
from quorate.codes.repetition import Repetition
from quorate.errors import RunError
from quorate.exchange import Exchange
from quorate.hostility import Hostility
from quorate.optimizer import Optimizer
from quorate.programs.coded_sgd import coded_sgd
from quorate.programs.synchronous_sgd import synchronous_sgd
from quorate.rand import Rand
from quorate.wire import Ragged
from tests.programs.test_laws import Memory, assert_same
from tests.tiny import simulate, train, training

ADAM = Optimizer("adam", {"lr": 0.01})
SGD = Optimizer("sgd", {"lr": 0.1})
STEPS = 6
BLATANT = (ReversedGradient(), Constant(), Gaussian(), NotFinite(), Huge(), SignFlip())
ATTACKS = (*BLATANT, Alie(), LabelFlip(), Crash(), Crash(probability=0.5))
ONE_A_GROUP = (1, 3, 8)


class Told(Memory):
    """Keeps what rank 0 tells of each step, besides all that is committed."""

    def __init__(self, *given):
        super().__init__(*given)
        self.metrics = {}

    def commit(self, rank, step, now, loss, shared, own, metrics=None):
        super().commit(rank, step, now, loss, shared, own)
        if rank == 0:
            self.metrics[step] = metrics


def run(size=9, *, hostility=None, memory=None, code=None, judged=None, paranoid=False, made=None, **more):
    exchange = Exchange(hostility=hostility, judged=judged)
    given = {"optimizer": SGD, "steps": STEPS, "batch": 3, "code": code or Repetition()} | more
    program = partial(coded_sgd, training=made or training(size=size), exchange=exchange, **given)
    return simulate(program, size, recorder=memory or Memory(), paranoid=paranoid)


def liars(attack, ranks=ONE_A_GROUP, **more):
    return Hostility(attack, Rand(0), len(ranks), tuple(ranks), **more)


def test_with_one_worker_it_is_synchronous_sgd():
    alone, _ = train(synchronous_sgd, training(size=1), optimizer=ADAM, steps=STEPS, batch=5)
    assert_same(run(1, code=Repetition(0), optimizer=ADAM, batch=5), alone)


@pytest.mark.parametrize("batch", [3, 7, "full"])
def test_ends_where_one_worker_ends_that_takes_all_batches_as_one(batch):
    alone, _ = train(
        synchronous_sgd, training(size=1), optimizer=SGD, steps=STEPS, batch=batch if batch == "full" else 9 * batch
    )
    for code in (Repetition(0), Repetition(1), Repetition(4)):
        ends = run(code=code, batch=batch)
        assert_same(ends, [ends[0]] * 9)
        torch.testing.assert_close(ends[0], alone[0])


def test_of_each_batch_one_gradient_is_taken_in_a_simulation():
    made, calls = training(size=9), []
    take = made.gradient

    def counted(parameters, batch):
        calls.append(batch.stream)
        return take(parameters, batch)

    counted.data = take.data
    made.gradient = counted
    run(made=made)
    assert sorted(calls) == [("forward", number, step) for number in range(9) for step in range(STEPS)]


@pytest.mark.parametrize("digests", [True, False])
@pytest.mark.parametrize("forges", ["gradients", "answer", "upload"])
@pytest.mark.parametrize("attack", ATTACKS, ids=str)
def test_liars_change_no_bit(attack, forges, digests):
    told, found = Told(), {}

    def judged(judgement):
        found[judgement.at.step] = dict(zip(judgement.ranks, judgement.scores, strict=True))

    ends = run(hostility=liars(attack, knows="own"), forges=forges, digests=digests, memory=told, judged=judged)
    assert_same(ends, run(digests=digests))
    certain = attack in BLATANT
    for step in range(STEPS):
        convicted = {rank for rank, score in found[step].items() if score == inf}
        assert set(found[step]) == set(range(9))
        assert len(convicted) == told.metrics[step + 1]["convicted"]
        assert convicted == set(ONE_A_GROUP) if certain else convicted <= set(ONE_A_GROUP)


@settings(max_examples=25)
@given(
    seed=st.integers(0, 1000),
    s=st.sampled_from([1, 2]),
    attack=st.sampled_from(ATTACKS),
    forges=st.sampled_from(["gradients", "answer", "upload"]),
    digests=st.booleans(),
    exclude=st.booleans(),
    start=st.integers(0, STEPS),
    data=st.data(),
)
def test_any_liars_that_no_group_has_too_many_of_change_no_bit(seed, s, attack, forges, digests, exclude, start, data):
    r = 2 * s + 1
    chosen = data.draw(st.lists(st.integers(0, r - 1), min_size=0, max_size=s, unique=True))
    others = data.draw(st.lists(st.integers(r, 2 * r - 1), min_size=1, max_size=s, unique=True))
    told, hostility = Told(), liars(attack, sorted(chosen + others), start=start)
    more = {"code": Repetition(s), "digests": digests, "made": training(size=2 * r, seed=seed)}
    ends = run(2 * r, hostility=hostility, forges=forges, exclude=exclude, memory=told, **more)
    assert_same(ends, run(2 * r, **more | {"made": training(size=2 * r, seed=seed)}))
    assert all(told.metrics[step]["convicted"] == 0 for step in range(1, start + 1))


def test_others_may_lie_in_every_step():
    hostility = Hostility(ReversedGradient(), Rand(0), 1, redrawn=True)
    told = Told()
    assert_same(run(hostility=hostility, memory=told), run())
    assert [told.metrics[step]["convicted"] for step in range(1, STEPS + 1)] == [1] * STEPS
    counts = told.kept[0, STEPS][0]["convictions"]
    assert int(counts.sum()) == STEPS
    assert int((counts > 0).sum()) > 1


@pytest.mark.parametrize(("s", "ranks"), [(1, (3, 8)), (2, (1, 2, 7))])
def test_who_votes_honestly_and_sends_something_else_is_convicted_and_others_send_it(s, ranks):
    told, code, made = Told(), Repetition(s), training(size=10 if s == 2 else 9)
    size, d = made.size, made.layout.numel
    exchange = Exchange(hostility=liars(Constant(), ranks))
    more = {"optimizer": SGD, "code": code, "steps": STEPS, "batch": 3}
    ends, trace = train(coded_sgd, made, exchange, forges="upload", simulator={"recorder": told}, **more)
    honest, plain = train(coded_sgd, training(size=size), **more)
    assert_same(ends, honest)
    assert told.kept[5, STEPS][0]["convictions"].tolist() == [STEPS * (rank in ranks) for rank in range(size)]
    again = trace.bytes - plain.bytes  # the pieces of those that lie, each of d / r numbers
    assert again >= STEPS * (size - 1) * 4 * len(ranks) * (d // code.r)


@pytest.mark.parametrize(("s", "size"), [(0, 4), (1, 9), (2, 10)])
def test_what_has_won_is_sent_once(s, size):
    made, code = training(size=size), Repetition(s)
    each, others, groups = 4 * made.layout.numel, size - 1, size // code.r
    more = {"code": code, "optimizer": SGD, "steps": STEPS, "batch": 3}
    _, trace = train(coded_sgd, made, **more)
    assert trace.bytes == STEPS * others * (32 * code.r * size + each * groups)
    _, trace = train(coded_sgd, training(size=size), digests=False, **more)
    assert trace.bytes == STEPS * others * each * size


@pytest.mark.parametrize("digests", [True, False])
def test_more_liars_in_a_group_than_it_withstands_stop_the_run(digests):
    with pytest.raises(RunError, match=r"step 4.*group 1 \(ranks 3, 4, 5\) has no majority"):
        run(hostility=liars(Gaussian(), (3, 5), start=3), digests=digests)


def test_a_group_of_which_nobody_sends_what_it_has_voted_for_stops_the_run():
    with pytest.raises(RunError, match=r"step 1.*the majority of group 2 says a gradient that is not finite"):
        run(hostility=liars(Constant(), (6, 7, 8)), forges="upload")


@pytest.mark.parametrize("forges", ["gradients", "upload"])
def test_where_groups_are_aggregated_one_that_liars_speak_for_is_withstood(forges):
    told, code = Told(), Detox(2, aggregator="median")
    ends = run(15, code=code, hostility=liars(Constant(), (3, 4)), forges=forges, memory=told)
    assert_same(ends, [ends[0]] * 15)
    assert float((ends[0] - run(15, code=code)[0]).norm()) < float((ends[0] - training().initial()).norm())
    assert told.kept[0, STEPS][0]["convictions"].tolist()[3:5] == [STEPS * (forges == "upload")] * 2


@pytest.mark.parametrize("forges", ["gradients", "upload"])
@pytest.mark.parametrize("digests", [True, False])
def test_the_excluded_take_no_part_any_more(digests, forges):
    told, (attack, first_of_group) = Told(), (ReversedGradient(), (0, 3, 6))
    ends = run(
        hostility=liars(attack, first_of_group, start=2), exclude=True, digests=digests, forges=forges, memory=told
    )
    assert_same(ends, run(digests=digests))
    assert [told.metrics[step]["convicted"] for step in range(1, STEPS + 1)] == [0, 0, 3, 0, 0, 0]
    assert [told.metrics[step]["excluded"] for step in range(1, STEPS + 1)] == [0, 0, 0, 3, 3, 3]
    for rank in range(9):
        idle = [isnan(told.losses[rank, step]) for step in range(1, STEPS + 1)]
        assert idle == [rank in first_of_group and step > 3 for step in range(1, STEPS + 1)]


def test_another_liar_beside_an_excluded_one_needs_a_larger_code():
    class Twice(Hostility):
        def at(self, step, size):
            return (0,) if step < 3 else (1,)

    one = Twice(Constant(), Rand(0), 1)
    with pytest.raises(RunError, match="group 0"):
        run(hostility=one, exclude=True)
    assert_same(run(10, code=Repetition(2), hostility=one, exclude=True), run(10, code=Repetition(2)))
    assert_same(run(hostility=one), run())


@pytest.mark.parametrize("step", [1, 3, 5])
@pytest.mark.parametrize("exclude", [True, False])
def test_an_attacked_run_that_goes_on_from_any_step_ends_with_the_same_bits(step, exclude):
    hostility, whole = liars(Gaussian(), start=2), Told()
    ends = run(hostility=hostility, exclude=exclude, memory=whole, optimizer=ADAM)
    rest = Told(whole, step)
    assert_same(run(hostility=hostility, exclude=exclude, memory=rest, optimizer=ADAM), ends)
    assert rest.metrics == {key: told for key, told in whole.metrics.items() if key > step}


@pytest.mark.parametrize("forges", ["gradients", "answer", "upload"])
def test_gives_the_same_bits_when_watched(forges):
    hostility = liars(Alie())
    watched = run(hostility=hostility, forges=forges, paranoid=True, exclude=True)
    assert_same(watched, run(hostility=hostility, forges=forges, exclude=True))


class Noisy(Attack):
    """Notes how much is known, and lies."""

    def __init__(self, heard):
        object.__setattr__(self, "heard", heard)

    def forge(self, seen):
        self.heard.append((len(seen.known), tuple(seen.own.shape), seen.hostile))
        return -seen.own


@pytest.mark.parametrize(("knows", "rows"), [("own", 3), ("all", 9)])
def test_the_hostile_know_what_they_hold_or_all_gradients(knows, rows):
    heard, made = [], training(size=9)
    run(hostility=liars(Noisy(heard), (2, 4), knows=knows), made=made)
    assert heard == [(rows, (made.layout.numel,), (2, 4))] * (STEPS * 2 * 3)


def test_silence_is_no_proof():
    told = Told()
    run(hostility=liars(Crash()), memory=told, exclude=True)
    assert {each["convicted"] for each in told.metrics.values()} == {0}


class Strange:
    """A node whose worker votes with bytes that are no digest, or in the wrong number."""

    def __init__(self, node, length):
        self._node, self._length = node, length

    def __getattr__(self, name):
        return getattr(self._node, name)

    def all_gather(self, message, like=None):
        if message[0].dtype == torch.uint8:
            message = Ragged((torch.zeros(self._length, dtype=torch.uint8),))
        return self._node.all_gather(message, like)


@pytest.mark.parametrize("length", [1, 95, 96, 97])
def test_what_is_no_digest_is_a_wrong_vote(length):
    told = Told()
    program = partial(
        coded_sgd,
        training=training(size=6),
        exchange=Exchange(),
        optimizer=SGD,
        code=Repetition(),
        steps=STEPS,
        batch=3,
    )
    ends = simulate(lambda node: program(Strange(node, length) if node.rank == 4 else node), 6, recorder=told)
    assert_same(ends, run(6))
    assert told.kept[0, STEPS][0]["convictions"].tolist() == [0, 0, 0, 0, STEPS, 0]
