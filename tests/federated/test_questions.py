from __future__ import annotations

import json
import math

import pytest

from quorate.cluster import Cluster
from quorate.engines.federation_simulator import FederationSimulator
from quorate.federated import Answer, Gone
from quorate.federated.comparison import Comparison
from quorate.federated.questions import POOLED, compare
from quorate.federated.record import Rounds
from quorate.settings import ComparisonSettings
from tests.federated.homes import clients, training
from tests.federated.test_comparison import nothing, write_rounds


class Scripted:
    """A server whose clients answer as they are told."""

    def __init__(self, replies, present=range(4), kept=()):
        self.size, self.clock = 4, 0.0
        self.replies, self.here, self.kept = replies, list(present), list(kept)
        self.asked_for, self.refused, self.released, self.accepts, self.queue = [], [], [], [], []

    def now(self):
        return self.clock

    def present(self):
        return self.here

    def facts(self, client):
        return {"samples": 15.0}

    def ask(self, asked, request):
        self.asked_for.append((request.kind, list(asked)))
        self.queue = [answer for client in asked if (answer := self.replies(client, request)) is not None]

    async def reply(self, until=math.inf):
        if self.queue:
            return self.queue.pop(0)
        self.clock = until
        return None

    def accept(self, reply):
        self.accepts.append((reply.client, reply.kind))

    def refuse(self, reply, why, hostile=False):
        self.refused.append((reply.client, hostile))

    def release(self, asked, round):
        self.released += asked

    def accepted(self):
        return self.kept


def told(client, request, value=0.5):
    return Answer(client, request.round, {}, {"value": value + client / 10}, request.kind)


def run(coroutine):
    try:
        coroutine.send(None)
    except StopIteration as stop:
        return stop.value
    raise AssertionError("it waits")


def asked(server, where, **settings):
    made = training()
    write_rounds(where, 3)
    return run(compare(server, clients(made), made.initial(), ComparisonSettings(**settings), where))


def test_clients_are_asked_for_both_and_nobody_for_data(tmp_path):
    server = Scripted(told)
    found = asked(server, tmp_path, clients=2)
    assert [(kind, len(who)) for kind, who in server.asked_for] == [("evaluate", 4), ("alone", 2)]
    assert found["federated"]["mean"] == pytest.approx(0.65)
    assert found["alone"]["clients"] == 2
    assert (found["pooled"], found["notes"]) == (None, [POOLED])
    held = json.loads((tmp_path / "clients.json").read_text())
    assert held["federated"] == [pytest.approx(0.5 + i / 10) for i in range(4)]
    assert held["took_part"] == [3] * 4


def test_nobody_is_waited_for_longer_than_was_said(tmp_path):
    server = Scripted(lambda client, request: told(client, request) if client == 1 else None, present=[0, 1])
    found = asked(server, tmp_path, pooled=False, alone=False, patience=30.0)
    assert server.clock == 30.0
    assert found["federated"]["clients"] == 1
    assert server.released == [0]
    assert found["notes"] == [
        "evaluate: client 0: it did not answer in time",
        "evaluate: 2 of 4 clients were away",
    ]


def test_what_is_no_measure_is_refused(tmp_path):
    def replies(client, request):
        odd = [math.nan, math.inf, 0.25, 0.75][client]
        return Gone(3, request.round, "it crashed") if client == 3 else told(client, request, odd)

    server = Scripted(replies)
    found = asked(server, tmp_path, pooled=False, alone=False)
    assert server.refused == [(0, True), (1, True)]
    assert found["federated"]["clients"] == 1
    assert "evaluate: client 3: it crashed" in found["notes"]


def test_clients_whose_replies_were_never_used_are_left_out(tmp_path):
    record = Rounds(tmp_path)
    record.asked([0, 1, 2], 10)
    record.accepted(0)
    record.accepted(2)
    record.done(1, 1.0)
    server, made = Scripted(told), training()
    found = run(compare(server, clients(made), made.initial(), ComparisonSettings(), tmp_path))
    assert server.asked_for == [("evaluate", [0, 2, 3]), ("alone", [0, 2, 3])]
    assert "left out, because no reply of theirs could be used: 1" in found["notes"]


def test_late_replies_to_the_training_are_refused(tmp_path):
    def replies(client, request):
        return Answer(client, 2, {}, {"value": 1.0}) if client == 0 else told(client, request)

    server = Scripted(replies)
    found = asked(server, tmp_path, pooled=False, alone=False)
    assert server.refused == [(0, False)]
    assert found["federated"]["clients"] == 3


def test_who_was_accepted_before_a_crash_is_not_asked_again(tmp_path):
    kept = [Answer(2, 3, {}, {"value": 0.125}, "evaluate"), Answer(1, 3, {}, {"value": 1.0}, "alone")]
    server = Scripted(told, kept=kept)
    asked(server, tmp_path, pooled=False)
    assert server.asked_for == [("evaluate", [0, 1, 3]), ("alone", [0, 2, 3])]
    assert json.loads((tmp_path / "clients.json").read_text())["federated"][2] == 0.125


def test_by_asking_as_by_measuring(tmp_path):
    made = training()
    write_rounds(tmp_path, 3)
    home, settings = clients(made), ComparisonSettings(pooled=False)
    simulator = FederationSimulator(home, made.shards, Cluster())
    by_asking = simulator.run(lambda server: compare(server, home, made.initial(), settings, tmp_path))
    measured = Comparison(home, made.shards, settings).run(made.initial(), nothing, tmp_path)
    assert {**by_asking, "tested_on": ""} == {**measured, "tested_on": ""}
