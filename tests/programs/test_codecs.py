"""Laws of every program with codecs that lose something: what all hold stays the same, and nothing depends on luck."""

from __future__ import annotations

from functools import partial

import pytest
import torch

from quorate import parts
from quorate.cluster import Cluster
from quorate.codecs.chain import Chain
from quorate.codecs.error_feedback import ErrorFeedback
from quorate.codecs.identity import Identity
from quorate.codecs.top_k import TopK
from quorate.errors import RecipeError, RunError
from quorate.exchange import Exchange
from quorate.optimizer import Optimizer
from quorate.periods.adaptive import Adaptive
from quorate.periods.every import every
from quorate.plan import plan_of
from quorate.programs._differences import lossless, meets
from quorate.programs._server import clock_of, with_clock
from quorate.topologies import mixing_matrix
from quorate.topologies.one_peer_exponential import one_peer_exponential
from quorate.topologies.ring import ring
from tests.programs.coding import CODED, Together
from tests.programs.test_laws import NAMES, STEPS, WAIT_FOR_NOBODY, Memory, assert_same, bound
from tests.test_exchange import Shifted
from tests.tiny import classes, randn, simulate, train, training

SGD = Optimizer("sgd", {"lr": 0.1})
coded = pytest.mark.parametrize(("name", "kind"), list(CODED))
REFUSE = {"ad_psgd", "coded_sgd", "push_sum"}


def program(name, made, exchange, **settings):
    return bound(name, made, exchange, **({"consensus_step": None} if name == "gossip" else {}), **settings)


def exact(size=3):
    return training(classes(dtype=torch.float64, model=lambda: torch.nn.Linear(6, 3).double()), size)


def test_every_program_has_codecs_or_refuses_them():
    assert {name for name, _ in CODED} | REFUSE == set(NAMES)


@coded
@pytest.mark.parametrize("size", [1, 2, 5])
def test_all_workers_end_with_the_same_finite_parameters(name, kind, size):
    made = training(size=size, unequal=True)
    ends = simulate(program(name, made, CODED[name, kind]), size)
    assert bool(ends[0].isfinite().all())
    assert not torch.equal(ends[0], made.initial())
    assert_same(ends, [ends[0]] * size)


@coded
def test_what_is_committed_as_shared_is_equal_on_all_workers(name, kind):
    memory = Memory()
    simulate(program(name, training(size=3), CODED[name, kind]), 3, recorder=memory)
    for step in range(1, STEPS + 1):
        first, *others = (memory.kept[rank, step][0] for rank in range(3))
        assert all(other.keys() == first.keys() for other in others)
        assert all(torch.equal(other[key], first[key]) for other in others for key in first)


@coded
@pytest.mark.parametrize("step", [1, 3, 5])
def test_a_run_that_goes_on_from_any_step_ends_with_the_same_bits(name, kind, step):
    whole = Memory()
    ends = simulate(program(name, training(size=3), CODED[name, kind]), 3, recorder=whole)
    rest = Memory(whole, step)
    assert_same(simulate(program(name, training(size=3), CODED[name, kind]), 3, recorder=rest), ends)
    assert all(
        torch.equal(rest.kept[rank, STEPS][1][key], tensor)
        for rank in range(3)
        for key, tensor in whole.kept[rank, STEPS][1].items()
    )


@coded
def test_gives_the_same_bits_when_watched(name, kind):
    ends = simulate(program(name, training(size=4), CODED[name, kind]), 4)
    assert_same(simulate(program(name, training(size=4), CODED[name, kind]), 4, paranoid=True), ends)


@pytest.mark.parametrize(("name", "kind"), [each for each in CODED if each[0] not in WAIT_FOR_NOBODY])
def test_the_clock_does_not_change_the_parameters(name, kind):
    ends = simulate(program(name, training(size=4), CODED[name, kind]), 4)
    speeds = {"name": "exponential", "drawn": "step"}
    uneven = Cluster(seconds_per_sample=speeds, uplink=1e5, latency=1e-3, node=[{"ranks": [2]}])
    assert_same(simulate(program(name, training(size=4), CODED[name, kind]), 4, uneven), ends)


@coded
def test_learns(name, kind):
    """Two classes that a line divides: the loss falls by a third, though a fifth of the entries is said at most."""
    made = training(classes(n=60), 3)
    made.train.y.copy_((made.train.x[:, 0] + 0.1 * randn(60) > 0).long())
    memory = Memory()
    simulate(program(name, made, CODED[name, kind], steps=90, batch="full"), 3, recorder=memory)
    first, last = (sum(memory.losses[rank, step] for rank in range(3)) for step in (1, 90))
    assert last < first * 2 / 3


@pytest.mark.parametrize("name", sorted({name for name, _ in CODED} - {"gossip", "easgd"}))
def test_messages_are_shorter(name):
    settings = {"optimizer": SGD} | ({"period": every} if name in ("local_sgd", "diloco", "downpour") else {})
    dense, sparse = (
        train(parts.find("program", name), training(size=3), exchange, steps=4, batch=4, **settings)[1].bytes
        for exchange in (Exchange(), Exchange(ErrorFeedback(TopK(0.05))))
    )
    pulls = 0.5 if name in ("parameter_server", "downpour") else 0.0
    assert sparse < (0.25 + pulls) * dense + (1000 if name == "downpour" else 0)


@pytest.mark.parametrize("name", ["synchronous_sgd", "local_sgd", "diloco"])
@pytest.mark.parametrize("step", [2, 4])
def test_codecs_of_several_meetings_work_where_all_workers_meet(name, step):
    whole, exchange = Memory(), Exchange(Together())
    made = partial(training, size=3)
    ends = simulate(program(name, made(), exchange), 3, recorder=whole)
    assert_same(ends, [ends[0]] * 3)
    assert_same(simulate(program(name, made(), exchange), 3, recorder=Memory(whole, step)), ends)
    assert_same(simulate(program(name, made(), exchange), 3, paranoid=True), ends)


PAIRS = {
    "parameter_server": {"optimizer": SGD, "servers": 1, "colocated": True, "staleness": 0, "backup": 0},
    "gossip": {"topology": ring},
    "push_sum": {"topology": ring},
    "ad_psgd": {"topology": ring},
    "downpour": {"period": every},
    "easgd": {"period": every, "beta": 0.9, "asynchronous": False},
}


@pytest.mark.parametrize("name", PAIRS)
@pytest.mark.parametrize("codec", [Together(), Chain((Identity(), Together())), ErrorFeedback(Together())])
def test_codecs_of_several_meetings_are_refused_where_workers_talk_in_pairs(name, codec):
    bound_program = partial(parts.find("program", name), **PAIRS[name])
    assert meets(codec)
    with pytest.raises(RecipeError) as error:
        plan_of(bound_program, 4, exchange=Exchange(codec))
    assert error.value.hint is not None
    assert "Together" in error.value.problem
    assert plan_of(bound_program, 4, exchange=Exchange()).trainers == 4


@pytest.mark.parametrize(
    ("name", "codec", "more", "says"),
    [
        ("push_sum", TopK(0.1), {}, 'would lose some of it for good\nhint: the program "gossip"'),
        ("gossip", TopK(0.1), {"topology": one_peer_exponential}, "`one_peer_exponential` changes for 2 steps"),
        ("gossip", ErrorFeedback(TopK(0.1), momentum=0.9), {}, "got momentum = 0.9 and warm_up = 0"),
        ("gossip", ErrorFeedback(TopK(0.1), warm_up=9), {}, 'leave out [[codec]] name = "error_feedback"'),
        ("gossip", Shifted(), {}, "hint: consensus_step = 0.1 in [program]"),
        ("easgd", TopK(0.1), {"asynchronous": True}, 'or the program "downpour"'),
        ("easgd", ErrorFeedback(TopK(0.1), momentum=0.9), {}, "error feedback without momentum"),
    ],
)
def test_refuses_what_would_lose_something_for_good(name, codec, more, says):
    with pytest.raises(RecipeError) as error:
        plan_of(partial(parts.find("program", name), **(PAIRS[name] | more)), 4, exchange=Exchange(codec))
    assert says in str(error.value)


def test_says_the_consensus_step():
    gossip = parts.find("program", "gossip")
    plan = plan_of(partial(gossip, topology=ring), 4, exchange=Exchange(ErrorFeedback(TopK(0.25))))
    assert dict(plan.says)["consensus step"].startswith("0.25 of the way to what neighbours have said; tune it")
    assert plan.alone
    chosen = plan_of(partial(gossip, topology=ring, consensus_step=0.125), 4, exchange=Exchange(TopK(0.25)))
    assert dict(chosen.says)["consensus step"] == "0.125 of the way to what neighbours have said"
    assert "consensus step" not in dict(plan_of(partial(gossip, topology=ring), 4, exchange=Exchange()).says)


@pytest.mark.parametrize("size", [2, 3, 5])
@pytest.mark.parametrize("codec", [TopK(0.2), ErrorFeedback(TopK(0.2))])
def test_gossip_agrees_with_the_matrix_form_of_choco_sgd(size, codec):
    """X' = X + gamma (W - I) H - lr G(X), where H <- H + C(X - H) row by row."""
    made, memory = exact(size), Memory()
    x, mixing = made.initial().repeat(size, 1), mixing_matrix(ring, size)
    public = x.clone()
    for step in range(6):
        gradients = torch.stack([made.gradient(x[rank].clone(), made.batch(rank, step, 4))[1] for rank in range(size)])
        for row, mine in zip(public, x - public, strict=True):
            largest = mine.abs().topk(TopK(0.2).at_most(len(mine))).indices
            row[largest] += mine[largest]
        x = x + 0.3 * (mixing @ public - public) - 0.1 * gradients
    settings = {"optimizer": SGD, "topology": ring, "steps": 6, "batch": 4, "consensus_step": 0.3}
    gossip = parts.find("program", "gossip")
    ends, _ = train(gossip, made, Exchange(codec), simulator={"recorder": memory}, **settings)
    for rank in range(size):
        torch.testing.assert_close(memory.kept[rank, 6][1]["parameters"], x[rank], rtol=1e-11, atol=1e-12)
    torch.testing.assert_close(ends[0], x.mean(dim=0), rtol=1e-11, atol=1e-12)


def test_local_sgd_agrees_with_the_definition_of_qsparse_local_sgd():
    made, size, tau = exact(), 3, 2
    average, residuals = made.initial().clone(), torch.zeros(size, made.layout.numel, dtype=torch.float64)
    replicas = average.repeat(size, 1)
    for step in range(8):
        for rank in range(size):
            replicas[rank] -= 0.1 * made.gradient(replicas[rank].clone(), made.batch(rank, step, 4))[1]
        if (step + 1) % tau == 0:
            moved = torch.zeros_like(average)
            for rank in range(size):
                residuals[rank] += replicas[rank] - average
                largest = residuals[rank].abs().topk(TopK(0.2).at_most(len(average))).indices
                moved[largest] += (
                    made.weights[rank] * residuals[rank][largest] if made.weights else (residuals[rank][largest] / size)
                )
                residuals[rank][largest] = 0
            average += moved
            replicas = average.repeat(size, 1)
    local_sgd, period = parts.find("program", "local_sgd"), partial(every, tau=tau)
    exchange = Exchange(ErrorFeedback(TopK(0.2)))
    ends, _ = train(local_sgd, exact(), exchange, optimizer=SGD, period=period, steps=8, batch=4)
    torch.testing.assert_close(ends[0], average, rtol=1e-11, atol=1e-12)


def test_an_adaptive_period_measures_the_same_things_with_codecs():
    """A codec that says all but the last bits changes the measured variance by as little."""
    told = {}
    for name, codec in (("all", Identity()), ("most", ErrorFeedback(TopK(0.999)))):
        memory = Memory()
        local_sgd = program("local_sgd", exact(), Exchange(codec), period=Adaptive(initial=2), optimizer=SGD, steps=12)
        simulate(local_sgd, 3, recorder=memory)
        told[name] = memory.kept[0, 12][0]
    assert {key for key in told["most"] if key.startswith("period.")} == set(told["all"])
    for key, value in told["all"].items():
        torch.testing.assert_close(told["most"][key], value, rtol=0.1, atol=1e-6)


def test_what_loses_nothing_is_told_from_what_may():
    assert lossless(Identity())
    assert lossless(Chain((Identity(), Identity())))
    assert lossless(ErrorFeedback(TopK(1.0)))
    assert not lossless(TopK(0.999))
    assert not lossless(Together())
    assert not meets(ErrorFeedback(Chain((TopK(0.1), Identity()))))


def test_a_push_says_one_clock():
    *_, added = with_clock((torch.zeros(3),), 7)
    assert clock_of(added, 2) == 7
    for damaged in (torch.zeros(0, dtype=torch.int64), torch.zeros(2, dtype=torch.int64)):
        with pytest.raises(RunError, match=rf"rank 2 pushed an update with {len(damaged)} clocks"):
            clock_of(damaged, 2)
