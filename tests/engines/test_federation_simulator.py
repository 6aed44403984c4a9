from __future__ import annotations

from functools import partial

import pytest
import torch

from quorate import checkpoint
from quorate.availability.always import always
from quorate.availability.on_and_off import on_and_off
from quorate.cluster import Cluster, Distribution, Event, Exceptional
from quorate.codecs.error_feedback import ErrorFeedback
from quorate.codecs.top_k import TopK
from quorate.engines.federation_simulator import FederationSimulator
from quorate.errors import RecipeError, RunError
from quorate.exchange import Exchange
from quorate.federated import Gone, Request
from quorate.federated.client import Asked
from quorate.federated.model import Model
from quorate.federated.record import Rounds, read_rounds
from quorate.federated.setup import client_of
from quorate.optimizer import Optimizer
from quorate.outer_optimizers.adam import Adam
from quorate.programs.fed_buff import fed_buff
from quorate.programs.federated import federated
from quorate.trace import Trace
from quorate.trees import flatten
from tests.tiny import classes, training

SIZE = 12
SGD = Optimizer("sgd", {"lr": 0.1})
MADE = training(classes(n=120), SIZE, unequal=True)
SPEEDS = Distribution(name="lognormal", median=0.01, sigma=1.0)
PHONES = Cluster(
    seconds_per_sample=SPEEDS,
    uplink=20e3,
    downlink=30e3,
    latency=0.001,
    node=(Exceptional(ranks=(1, 2, 3), uplink=2e3), Exceptional(ranks=(SIZE,), uplink=60e3, downlink=50e3)),
    event=(
        Event(at=0.4, kind="crash", ranks=(0, 5)),
        Event(at=1.5, kind="join", ranks=(5,)),
        Event(at=0.3, kind="slow", ranks=(4,), factor=3.0, lasts=1.0),
        Event(at=0.6, kind="cut", ranks=(6,), lasts=0.5),
    ),
    detection=0.2,
)
COMES_AND_GOES = partial(on_and_off, up=1.5, down=0.7)


class Keeps:
    """A recorder that writes every round's checkpoint, and can go on from one.

    Args:
        every: rounds between two checkpoints.
        resumed: a checkpoint to go on from.
        stop: the round after which the run is broken off.
    """

    def __init__(self, folder, trace, resumed=None, stop=None):
        self.folder, self.trace, self.resumed, self.stop, self.said = folder, trace, resumed, stop, []
        if resumed is not None:
            trace.load(resumed.facts[-1]["trace"])

    def restore(self, rank, shared, own):
        return (
            (0, shared, own) if self.resumed is None else (self.resumed.step, self.resumed.shared, self.resumed.own[0])
        )

    def saves(self, step):
        return True

    def evaluates(self, step):
        return False

    def commit(self, rank, step, now, loss, shared, own, metrics=None):
        checkpoint.write(self.folder, step, 0, 1, shared, {0: own}, {"trace": self.trace.state()})
        self.said.append((step, now, loss, dict(metrics or {})))
        if step == self.stop:
            raise KeyboardInterrupt

    def leave(self, rank, now):
        pass


def bound(program, **settings):
    return partial(program, optimizer=SGD, batch=4, **settings)


def simulator(program, exchange=None, **settings):
    clients = client_of(program, MADE, exchange or Exchange(), SIZE)
    return FederationSimulator(clients, MADE.shards, settings.pop("cluster", PHONES), rand=MADE.rand, **settings)


def simulate(program, exchange=None, **settings):
    exchange = exchange or Exchange()
    return simulator(program, exchange, **settings).run(lambda server: program(server, MADE, exchange))


PROGRAMS = {
    "synchronous": bound(federated, algorithm=None, rounds=9, cohort=4, over_selection=0.5, deadline=0.5),
    "late ones added": bound(
        federated, algorithm=None, rounds=9, cohort=4, deadline=0.3, late="buffer", partial=True, outer_optimizer=Adam()
    ),
    "asynchronous": bound(fed_buff, algorithm=None, rounds=9, concurrency=6, buffer=2),
}


def with_algorithm(program):
    from quorate.algorithms.fed_avg import FedAvg

    return partial(program.func, **{**program.keywords, "algorithm": FedAvg()})


@pytest.mark.parametrize("name", PROGRAMS)
@pytest.mark.parametrize("coded", [False, True])
def test_a_resumed_run_equals_the_undisturbed_one_to_the_bit(name, coded, tmp_path):
    program = with_algorithm(PROGRAMS[name])
    exchange = Exchange(ErrorFeedback(TopK(0.3))) if coded else Exchange()

    def go(folder, resumed=None, stop=None):
        trace = Trace(SIZE + 1)
        keeps, rounds = Keeps(folder, trace, resumed, stop), Rounds(tmp_path / "rounds", resumed.step if resumed else 0)
        settings = {"availability": COMES_AND_GOES, "recorder": keeps, "trace": trace, "rounds": rounds}
        try:
            return simulate(program, exchange, **settings), keeps.said, trace.state()
        except KeyboardInterrupt:
            return None

    (tmp_path / "rounds").mkdir()
    expected, said, traced = go(tmp_path / "whole")
    lines = read_rounds(tmp_path / "rounds")
    for stop in (1, 3, 4, 7):
        folder = tmp_path / str(stop)
        assert go(folder, stop=stop) is None
        found, again, state = go(folder, checkpoint.latest(folder, 1))
        assert torch.equal(found, expected)
        assert again == said[stop:]
        assert state == traced
        assert read_rounds(tmp_path / "rounds") == lines


@pytest.mark.parametrize("name", PROGRAMS)
def test_clients_write_to_nothing_that_they_are_given(name):
    program, exchange = with_algorithm(PROGRAMS[name]), Exchange(ErrorFeedback(TopK(0.3)))
    paranoid = simulate(program, exchange, paranoid=True, availability=COMES_AND_GOES)
    assert torch.equal(paranoid, simulate(program, exchange, availability=COMES_AND_GOES))


def scripted(act, **settings):
    """Run a server's program that is a function of the simulator and a request, on 100-byte broadcasts."""
    program = with_algorithm(PROGRAMS["synchronous"])
    made = simulator(program, **settings)
    request = Request(0, Model(MADE, Exchange(), Exchange(), program.keywords["algorithm"], Adam(), SIZE).broadcast(0))
    return made, made.run(lambda server: act(server, request))


def whole(**more):
    return Cluster(seconds_per_sample=0.01, uplink=1e3, downlink=1e3, latency=0.5, **more)


def test_the_servers_uplink_is_shared_and_its_clients_links_are_their_own():
    async def act(server, request):
        server.ask([3, 4], request)
        times = [(await server.reply(), server.now()) for _ in range(2)]
        return [(reply.client, now) for reply, now in times], request.bytes

    made, (found, size) = scripted(act, cluster=whole(node=(Exceptional(ranks=(SIZE,), downlink=1e9),)))
    samples = {client: len(MADE.shards[client]) for client in (3, 4)}
    both = 2 * size / 1e3  # for two broadcasts through one uplink
    expected = {client: both + 1 + 0.01 * samples[client] + size / 1e3 + 1 for client in (3, 4)}
    assert dict(found) == pytest.approx(expected)
    _, (shared, _) = scripted(act, cluster=whole())
    assert all(now > expected[client] for client, now in shared)  # of replies that share the server's downlink
    trace = made._trace
    assert trace.sent_bytes[SIZE] == 2 * size
    assert trace.computing_seconds[3] == pytest.approx(0.01 * samples[3])


def lost(event=(), availability=None, **settings):
    async def act(server, request):
        server.ask([3], request)
        found = await server.reply()
        return found, server.now(), list(server.present())

    return scripted(act, cluster=whole(event=event, detection=0.25), availability=availability, **settings)[1]


def test_a_client_that_crashes_is_noticed():
    found, now, present = lost((Event(at=0.7, kind="crash", ranks=(3,)),))
    assert isinstance(found, Gone)
    assert found.why == "it crashed at 0.7 s"
    assert now == 0.95
    assert 3 not in present


def test_a_client_that_is_cut_off_for_long_is_noticed_and_a_short_cut_only_delays():
    found, now, _ = lost((Event(at=0.1, kind="cut", ranks=(3,), lasts=50.0),))
    assert (type(found), now) == (Gone, 0.35)
    _, usual, _ = lost()
    found, now, _ = lost((Event(at=0.1, kind="cut", ranks=(3,), lasts=0.2),))
    assert not isinstance(found, Gone)
    assert now == pytest.approx(usual + 0.2)


def test_slow_and_paused_clients_take_longer():
    _, usual, _ = lost()
    seconds = 0.01 * len(MADE.shards[3])
    _, slow, _ = lost((Event(at=0.0, kind="slow", ranks=(3,), factor=3.0, lasts=100.0),))
    assert slow == pytest.approx(usual + 2 * seconds)
    _, paused, _ = lost((Event(at=0.0, kind="pause", ranks=(3,), lasts=5.0),))
    assert paused > usual + 2


def test_a_client_that_goes_away_is_lost_or_finishes():
    class Until:
        def present(self, time):
            return time < 1.0

        def next_change(self, time):
            return 1.0 if time < 1.0 else float("inf")

    def leaves(client, rand):
        return Until() if client == 3 else always(client, rand)

    found, now, _ = lost(availability=leaves)
    assert (found.why, now) == ("it went away", 1.0)
    found, now, there = lost(availability=leaves, interrupted="finishes")
    assert found.client == 3
    assert not isinstance(found, Gone)
    assert 3 not in there


def test_what_is_not_accepted_has_not_happened():
    async def act(server, request):
        server.ask([3], request)
        reply = await server.reply()
        server.refuse(reply, "a trial")
        before = flatten(server.memory(3))
        server.ask([3], request)
        again = await server.reply()
        server.accept(again)
        return before, flatten(server.memory(3)), reply, again

    program = with_algorithm(PROGRAMS["synchronous"])
    made = simulator(program, Exchange(ErrorFeedback(TopK(0.3))), cluster=whole())
    request = Request(0, Model(MADE, Exchange(), Exchange(), program.keywords["algorithm"], Adam(), SIZE).broadcast(0))
    before, after, reply, again = made.run(lambda server: act(server, request))
    assert before == {}
    assert after
    assert all(torch.equal(a, b) for a, b in zip(reply.message("update"), again.message("update"), strict=True))


def test_released_clients_are_free_and_nothing_of_them_arrives():
    async def act(server, request):
        server.ask([3, 4], request)
        server.release([3], 0)
        assert 3 in server.present()
        assert 4 not in server.present()
        first = await server.reply()
        return first.client, await server.reply()

    assert scripted(act)[1] == (4, None)


def test_a_wait_ends_in_time():
    async def act(server, request):
        server.ask([3], request)
        assert await server.reply(0.001) is None
        assert server.now() == 0.001
        assert not await server.arrivals(0.002)
        assert server.now() == 0.002
        return True

    assert scripted(act)[1]


def test_arrivals_are_told():
    async def act(server, request):
        before = set(server.present())
        assert await server.arrivals(1e9)
        return before, set(server.present())

    before, after = scripted(act, availability=COMES_AND_GOES)[1]
    assert len(after - before) == 1


def test_a_client_whose_task_fails_is_gone_and_the_others_go_on():
    program = with_algorithm(PROGRAMS["synchronous"])
    made = simulator(program, cluster=whole())
    answers = type(made._clients).answers

    def fails(self, cohort, train):
        return [
            RunError("a bad sample") if asked.client == 3 else result
            for asked, result in zip(cohort, answers(self, cohort, train), strict=True)
        ]

    async def act(server, request):
        server.ask([3, 4], request)
        return [await server.reply(), await server.reply()]

    request = Request(0, Model(MADE, Exchange(), Exchange(), program.keywords["algorithm"], Adam(), SIZE).broadcast(0))
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(type(made._clients), "answers", fails)
        found = {each.client: each for each in made.run(lambda server: act(server, request))}
    assert isinstance(found[3], Gone)
    assert found[3].why == "it failed: a bad sample"
    assert not isinstance(found[4], Gone)


def test_clients_tell_their_samples_and_memory():
    made = simulator(
        with_algorithm(PROGRAMS["synchronous"]), cluster=whole(node=(Exceptional(ranks=(2,), memory=1e9),))
    )
    assert made.facts(2) == {"samples": float(len(MADE.shards[2])), "memory": 1e9}
    assert made.facts(1) == {"samples": float(len(MADE.shards[1]))}


@pytest.mark.parametrize(
    ("cluster", "says"),
    [
        (whole(event=(Event(at=1.0, kind="crash", ranks=(SIZE,)),)), "the federation's server"),
        (whole(event=(Event(at=1.0, kind="crash", ranks=(SIZE + 1,)),)), "the last is rank 12"),
        (Cluster(seconds_per_sample="measured"), "no measured speed"),
    ],
)
def test_clusters_that_can_not_be_meant_are_refused(cluster, says):
    with pytest.raises(RecipeError, match=says):
        simulator(with_algorithm(PROGRAMS["synchronous"]), cluster=cluster)


def test_what_a_client_computes_costs_what_its_work_has_samples():
    clients = client_of(with_algorithm(PROGRAMS["synchronous"]), MADE, Exchange(), SIZE)
    asked = Asked(0, {}, Request(0, {}, {"steps": 2.0}), MADE.shards[0])
    assert clients.cost(asked) == 8
    assert clients.cost(asked._replace(request=Request(0, {}))) == len(MADE.shards[0])
