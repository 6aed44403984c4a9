from __future__ import annotations

import math
from functools import partial
from pathlib import Path

import pytest
import torch

from quorate.algorithms.fed_avg import FedAvg
from quorate.algorithms.scaffold import Scaffold
from quorate.errors import RecipeError, RunError
from quorate.federated import Answer, Gone, NobodyLeft
from quorate.plan import plan_of
from quorate.programs.federated import federated
from quorate.recipe import parse
from quorate.selections.by_speed import by_speed
from tests.programs.scripted import MADE, SGD, SIZE, Does, Done, Scripted, answer, run

ALL = tuple(range(SIZE))


def asked(server, round):
    return [client for client, request in server.requests if request.round == round]


def test_a_round_asks_the_cohort_and_averages_what_it_says():
    server = Scripted(lambda client, request: Does(1.0, answer(client, request, value=float(client))))
    parameters = run(federated, server, rounds=1, cohort=SIZE)
    assert sorted(asked(server, 0)) == list(ALL)
    torch.testing.assert_close(MADE.initial() - parameters, torch.full_like(parameters, sum(ALL) / SIZE))
    assert server.commits[0][1] == [(client, 0) for client in ALL]


def test_the_result_does_not_depend_on_who_is_first():
    def at(order):
        def script(client, request):
            return Does(order(client), answer(client, request, value=0.1 * client, samples=1.0 + client))

        return run(federated, Scripted(script), rounds=3, cohort=SIZE)

    assert torch.equal(at(lambda client: client), at(lambda client: 10 - client))


def test_with_over_selection_the_first_ones_make_the_round_and_the_others_are_released():
    server = Scripted(lambda client, request: Does(1.0 + client, answer(client, request)))
    run(federated, server, rounds=1, cohort=3, over_selection=1.0)
    assert len(asked(server, 0)) == 6
    assert server.taken == [(0, 0), (1, 0), (2, 0)]
    assert sorted(server.released) == [3, 4, 5]


def test_a_deadline_ends_a_round_with_those_who_are_there():
    server = Scripted(lambda client, request: Does(1.0 if client < 4 else 100.0, answer(client, request)))
    run(federated, server, rounds=1, cohort=SIZE, deadline=5.0, quorum=3)
    clock, used, _, _ = server.commits[0]
    assert (clock, len(used)) == (5.0, 4)
    assert sorted(server.released) == [4, 5]


def test_without_a_quorum_others_are_asked_and_late_ones_still_count():
    server = Scripted(lambda client, request: Does(1.0 if client > 1 else 7.0, answer(client, request)))
    run(federated, server, rounds=1, cohort=SIZE, deadline=5.0, quorum=SIZE)
    assert server.commits[0][0] == 7.0
    assert len(server.commits[0][1]) == SIZE


def test_clients_that_are_gone_cost_the_round_nothing_but_their_own_update():
    def script(client, request):
        return Does(1.0, Gone(client, request.round, "it vanished") if client == 2 else answer(client, request))

    server = Scripted(script)
    run(federated, server, rounds=4, cohort=SIZE)
    assert [clock for clock, *_ in server.commits] == [1.0, 2.0, 3.0, 4.0]
    assert all(len(used) == SIZE - 1 for _, used, _, _ in server.commits)


def test_clients_that_come_back_are_asked_again_but_not_for_ever():
    def script(client, request):
        return Does(1.0, Gone(client, request.round, "it vanished"))

    server = Scripted(script)
    with pytest.raises(NobodyLeft, match=r"round 1: .* client \d: it vanished"):
        run(federated, server, rounds=1, cohort=SIZE)
    assert all(asked(server, 0).count(client) == 3 for client in ALL)


def test_with_nobody_there_the_server_gives_up_after_its_patience():
    server = Scripted(comes=(math.inf,) * SIZE)
    with pytest.raises(NobodyLeft, match="for 60 seconds"):
        run(federated, server, rounds=1, cohort=2, patience=60.0)
    assert server.clock == 60.0


def test_with_clients_that_never_reply_the_server_gives_up():
    server = Scripted(lambda client, request: Does(1.0, None))
    with pytest.raises(NobodyLeft):
        run(federated, server, rounds=1, cohort=SIZE, deadline=10.0, patience=60.0)
    assert server.clock <= 10.0 + 60.0 + 10.0


def test_the_first_round_waits_for_a_whole_cohort_but_not_for_ever():
    server = Scripted(comes=(5.0, 6.0, 7.0, 8.0, math.inf, math.inf))
    run(federated, server, rounds=2, cohort=4, gathering=30.0)
    assert [clock for clock, *_ in server.commits] == [9.0, 10.0]
    late = Scripted(comes=(5.0, 6.0, math.inf, math.inf, math.inf, math.inf))
    run(federated, late, rounds=2, cohort=4, gathering=30.0)
    assert [clock for clock, *_ in late.commits] == [36.0, 37.0]


HOSTILE = {
    "NaN": lambda client, request: answer(client, request, value=math.nan),
    "huge": lambda client, request: answer(client, request, value=math.inf),
    "wrong shape": lambda client, request: Answer(
        client, request.round, {"update": (torch.zeros(3),)}, answer(client, request).numbers
    ),
    "wrong dtype": lambda client, request: Answer(
        client,
        request.round,
        {"update": (torch.zeros(MADE.layout.numel, dtype=torch.float64),)},
        answer(client, request).numbers,
    ),
    "nothing": lambda client, request: Answer(client, request.round, {}, answer(client, request).numbers),
    "negative samples": lambda client, request: answer(client, request, samples=-1e9),
    "a loss of NaN": lambda client, request: answer(client, request, loss=math.nan),
    "another's round": lambda client, request: Answer(client, request.round + 7, {}, {}),
}


@pytest.mark.parametrize("what", HOSTILE)
def test_a_hostile_reply_is_refused_and_the_round_goes_on(what):
    def script(client, request):
        return Does(1.0, HOSTILE[what](client, request) if client == 3 else answer(client, request))

    server = Scripted(script)
    parameters = run(federated, server, rounds=2, cohort=SIZE)
    assert {client for client, _, _ in server.refused} == {3}
    assert all(3 not in [client for client, _ in used] for _, used, _, _ in server.commits)
    torch.testing.assert_close(parameters, MADE.initial() - 2)


def slow_two(client, request):
    return Does(7.5 if client == 2 else 1.0, answer(client, request, value=float(request.round + 1)))


def test_late_replies_are_dropped():
    server = Scripted(slow_two)
    run(federated, server, rounds=4, cohort=SIZE, deadline=5.0)
    assert (2, 0) not in server.taken
    assert 2 in server.released


def test_late_replies_are_added_to_a_later_round_with_a_discount():
    server = Scripted(slow_two)
    parameters = run(federated, server, rounds=4, cohort=SIZE, deadline=5.0, late="buffer")
    assert server.released == []
    place = 3  # from 7 to 8 seconds, as the others' first round takes 5
    used, discount = server.commits[place][1], (1 + place) ** -0.5
    before = server.commits[place - 1][2]["parameters"]
    fresh = [client for client, round in used if round == place]
    step = (len(fresh) * (place + 1) + discount * 1.0) / (len(fresh) + discount)
    torch.testing.assert_close(before - server.commits[place][2]["parameters"], torch.full_like(parameters, step))


def test_replies_that_are_too_stale_are_refused():
    server = Scripted(slow_two)
    run(federated, server, rounds=4, cohort=SIZE, deadline=5.0, late="buffer", max_staleness=2)
    assert server.refused == [(2, "it is of round 1, and came in round 4", False)]
    assert all((2, 0) not in used for _, used, _, _ in server.commits)


def test_a_run_goes_on_in_the_middle_of_a_round():
    whole = Scripted()
    expected = run(federated, whole, rounds=3, cohort=4)
    cohort = sorted(asked(whole, 1))
    _, request = next((c, r) for c, r in whole.requests if r.round == 1)
    server = Scripted(asked={1: cohort}, kept=[answer(cohort[0], request)], recorder=Done(1, whole.commits[0][2]))
    assert torch.equal(run(federated, server, rounds=3, cohort=4), expected)
    assert sorted(asked(server, 1)) == cohort[1:]
    assert server.commits[0][1] == [(client, 1) for client in cohort]
    assert (cohort[0], 1) not in server.taken  # once, before the crash


def test_late_replies_that_were_accepted_before_a_crash_are_used():
    whole = Scripted()
    run(federated, whole, rounds=1, cohort=2, late="buffer")
    kept = answer(5, whole.requests[0][1], value=3.0)
    server = Scripted(kept=[kept], recorder=Done(1, whole.commits[0][2]))
    run(federated, server, rounds=2, cohort=2, late="buffer")
    assert (5, 0) in server.commits[0][1]
    assert server.commits[0][3]["late"] == 1.0


def test_slow_clients_are_told_to_do_as_many_steps_as_they_can():
    def script(client, request):
        steps = request.numbers.get("steps", 20.0)
        return Does(steps * (1.0 if client == 0 else 0.1), answer(client, request, steps=steps))

    server = Scripted(script, told=lambda client: {"samples": 20.0})
    run(federated, server, rounds=6, cohort=SIZE, batch=1, deadline=10.0, partial=True)
    told_steps = [request.numbers.get("steps") for client, request in server.requests if client == 0]
    assert told_steps[0] is None
    assert all(steps is not None and steps < 20 for steps in told_steps[1:])
    assert all((0, round) in server.taken for round in range(1, 6))
    assert all("steps" not in request.numbers for client, request in server.requests if client == 1)


def test_only_clients_that_meet_the_conditions_are_asked():
    server = Scripted(told=lambda client: {"samples": 10.0 * client, "memory": 1e9})
    run(federated, server, rounds=3, cohort=SIZE, require={"samples": 30.0})
    assert {client for client, _ in server.requests} == {3, 4, 5}


def test_conditions_that_nobody_can_meet_are_refused_at_once():
    server = Scripted(told=lambda client: {"samples": 10.0 * client})
    with pytest.raises(RunError, match=r"0 of 6 clients meet `require`, but 1 are needed; .* samples = 50"):
        run(federated, server, rounds=3, cohort=2, require={"samples": 60.0, "memory": 1.0})
    assert server.clock == 0.0


def test_selection_knows_how_fast_clients_were():
    server = Scripted(lambda client, request: Does(9.0 if client < 3 else 1.0, answer(client, request)))
    run(federated, server, rounds=12, cohort=2, selection=partial(by_speed, within=2.0))
    assert all(client >= 3 for client, request in server.requests if request.round >= 6)


@pytest.mark.parametrize(
    ("settings", "says"),
    [
        ({"rounds": 0}, "`rounds`"),
        ({"cohort": 7}, "6 clients"),
        ({"cohort": 0}, "`cohort`"),
        ({"over_selection": -0.1}, "`over_selection`"),
        ({"quorum": 4}, "`quorum`"),
        ({"deadline": 0.0}, "`deadline`"),
        ({"held_out": 1.0}, "`held_out`"),
        ({"late": "buffer", "algorithm": Scaffold()}, "Scaffold's server keeps a state"),
        ({"late": "buffer", "max_staleness": 0}, "`max_staleness`"),
    ],
)
def test_settings_that_can_not_be_meant_are_refused(settings, says):
    whole = {"rounds": 3, "cohort": 3, "algorithm": FedAvg(), "optimizer": SGD} | settings
    with pytest.raises(RecipeError, match=says):
        plan_of(partial(federated, **whole), SIZE)


MEETS_TWICE = """
workers = 10
[program]
name = "federated"
rounds = 1
[optimizer]
name = "sgd"
lr = 0.1
[[codec]]
name = "power_sgd"
"""


def test_a_codec_of_several_meetings_is_refused_before_a_run():
    with pytest.raises(RecipeError, match="power_sgd needs meetings of all workers"):
        parse(MEETS_TWICE, "federated", Path())
