from __future__ import annotations

import math
from functools import partial

import pytest
import torch

from quorate.algorithms.fed_avg import FedAvg
from quorate.algorithms.fed_nova import FedNova
from quorate.algorithms.scaffold import Scaffold
from quorate.errors import RecipeError
from quorate.federated import Gone, NobodyLeft
from quorate.plan import plan_of
from quorate.programs.fed_buff import fed_buff
from tests.programs.scripted import MADE, SGD, SIZE, Does, Done, Scripted, answer, run


def by_speed(client, request):
    """The first client is four times as slow; each says the version that it was given, plus 1."""
    return Does(4.2 if client == 0 else 1.0, answer(client, request, value=request.round + 1.0))


def test_so_many_are_at_work_and_none_is_given_a_model_twice():
    server = Scripted(by_speed)
    run(fed_buff, server, rounds=8, concurrency=3, buffer=2)
    given = [(client, request.round) for client, request in server.requests]
    assert len(given) == len(set(given))
    assert len(server.commits) == 8
    assert len(server._busy) <= 3


def test_nobody_waits_for_the_slow_one():
    server = Scripted(by_speed)
    run(fed_buff, server, rounds=5, concurrency=SIZE, buffer=5)
    assert [clock for clock, *_ in server.commits[:4]] == [1.0, 2.0, 3.0, 4.0]


def test_a_stale_reply_counts_less_and_makes_the_step_shorter():
    server = Scripted(by_speed)
    run(fed_buff, server, rounds=5, concurrency=SIZE, buffer=5)
    _, used, state, metrics = server.commits[4]
    assert (0, 0) in used
    assert metrics["staleness"] == 4 / 5
    step = server.commits[3][2]["parameters"] - state["parameters"]
    torch.testing.assert_close(step, torch.full_like(step, (4 * 5.0 + 1.0 * 5**-0.5) / 5))


def test_without_discount_and_delay_it_is_federated_averaging():
    server = Scripted(lambda client, request: Does(1.0, answer(client, request, value=float(client))))
    parameters = run(fed_buff, server, rounds=1, concurrency=SIZE, buffer=SIZE)
    torch.testing.assert_close(MADE.initial() - parameters, torch.full_like(parameters, 2.5))


def test_what_is_too_stale_is_refused():
    server = Scripted(by_speed)
    run(fed_buff, server, rounds=6, concurrency=SIZE, buffer=5, max_staleness=3)
    assert server.refused == [(0, "it is of version 0, and the model is at version 4", False)]


@pytest.mark.parametrize("value", [math.nan, math.inf])
def test_hostile_replies_are_refused_and_others_asked(value):
    server = Scripted(lambda client, request: Does(1.0, answer(client, request, value=value if client == 3 else 1.0)))
    run(fed_buff, server, rounds=4, concurrency=4, buffer=2)
    assert {client for client, _, _ in server.refused} <= {3}
    assert all(client != 3 for _, used, _, _ in server.commits for client, _ in used)
    assert len(server.commits) == 4


def test_lost_clients_are_replaced():
    def script(client, request):
        lost = (client + request.round) % 3 == 0
        return Does(1.0, Gone(client, request.round, "it vanished") if lost else answer(client, request))

    server = Scripted(script)
    run(fed_buff, server, rounds=6, concurrency=4, buffer=3)
    assert [len(used) for _, used, _, _ in server.commits] == [3] * 6


def test_a_buffer_that_can_not_be_filled_is_used_as_it_is():
    server = Scripted(comes=(0.0, 0.0, *[math.inf] * 4))
    run(fed_buff, server, rounds=3, concurrency=4, buffer=4)
    assert [len(used) for _, used, _, _ in server.commits] == [2, 2, 2]


def test_a_deadline_ends_the_wait_for_a_full_buffer():
    server = Scripted(lambda client, request: Does(1.0 if client < 2 else 50.0, answer(client, request)))
    run(fed_buff, server, rounds=1, concurrency=SIZE, buffer=SIZE, deadline=10.0)
    assert server.commits[0][0] == 10.0
    assert server.commits[0][1] == [(0, 0), (1, 0)]


@pytest.mark.parametrize("patience", [0.0, 60.0])
def test_with_nobody_there_the_server_gives_up(patience):
    server = Scripted(comes=(math.inf,) * SIZE)
    with pytest.raises(NobodyLeft):
        run(fed_buff, server, rounds=1, concurrency=2, buffer=2, patience=patience, gathering=30.0)
    assert server.clock == 30.0 + patience


def test_if_all_are_lost_the_message_says_why():
    server = Scripted(lambda client, request: Does(1.0, Gone(client, request.round, "battery empty")))
    with pytest.raises(NobodyLeft, match="battery empty"):
        run(fed_buff, server, rounds=1, concurrency=2, buffer=2)


def test_it_waits_at_first_for_enough_clients():
    server = Scripted(comes=(2.0, 3.0, 4.0, 5.0, 6.0, 7.0))
    run(fed_buff, server, rounds=2, concurrency=SIZE, buffer=SIZE)
    assert [clock for clock, *_ in server.commits] == [8.0, 9.0]


def test_after_a_crash_those_at_work_are_asked_again_and_what_was_accepted_counts():
    whole = Scripted(by_speed)
    run(fed_buff, whole, rounds=2, concurrency=SIZE, buffer=5)
    state = whole.commits[1][2]
    assert state["under_way"].tolist() == [0, -1, -1, -1, -1, -1]
    kept = answer(3, whole.requests[-1][1], value=2.0)
    server = Scripted(by_speed, kept=[kept], asked={2: [3, 4]}, recorder=Done(2, state))
    run(fed_buff, server, rounds=3, concurrency=SIZE, buffer=3)
    again = sorted(client for client, _ in server.requests)
    assert {0, 4} <= set(again)
    assert (3, kept.round) in server.commits[0][1]
    assert (3, kept.round) not in server.taken


@pytest.mark.parametrize(
    ("settings", "says"),
    [
        ({"rounds": 0}, "`rounds`"),
        ({"concurrency": 0}, "`concurrency`"),
        ({"concurrency": 7}, "6 clients"),
        ({"buffer": 7}, "`buffer`"),
        ({"max_staleness": -1}, "`max_staleness`"),
        ({"staleness_power": -1.0}, "`staleness_power`"),
        ({"deadline": 0.0}, "`deadline`"),
        ({"algorithm": Scaffold()}, "Scaffold's server keeps a state"),
    ],
)
def test_settings_that_can_not_be_meant_are_refused(settings, says):
    whole = {"rounds": 3, "concurrency": 3, "buffer": 3, "algorithm": FedAvg(), "optimizer": SGD} | settings
    with pytest.raises(RecipeError, match=says):
        plan_of(partial(fed_buff, **whole), SIZE)


def test_algorithms_whose_server_keeps_nothing_are_taken():
    plan = plan_of(partial(fed_buff, rounds=3, concurrency=3, buffer=2, algorithm=FedNova(), optimizer=SGD), SIZE)
    assert plan.federated
