from __future__ import annotations

import json

import pytest
import torch

from quorate.algorithms.local_only import LocalOnly
from quorate.errors import QuorateError
from quorate.federated import Request
from quorate.federated.client import Asked
from quorate.federated.comparison import FOLDER, Comparison, sampled, took_part
from quorate.federated.record import Rounds
from quorate.federated.summary import Found, in_numbers, lines, summary
from quorate.rand import Rand
from quorate.settings import ComparisonSettings
from tests.federated.homes import clients, training
from tests.tiny import randn


def write_rounds(where, rounds, size=4, without=()):
    record = Rounds(where)
    for number in range(1, rounds + 1):
        for client in set(range(size)) - set(without):
            record.accepted(client)
        record.done(number, float(number))


def nothing(client):
    return {}


def test_who_took_part_is_counted(tmp_path):
    write_rounds(tmp_path, 3, without=[1])
    assert took_part(tmp_path, 4) == (3, [3, 0, 3, 3])
    assert took_part(tmp_path / "nowhere", 2) == (0, [0, 0])


def test_a_sample_is_the_same_every_time_and_all_if_there_are_few():
    assert sampled(5, 20, Rand(0)) == [0, 1, 2, 3, 4]
    chosen = sampled(1000, 20, Rand(0))
    assert chosen == sampled(1000, 20, Rand(0)) == sorted(set(chosen))
    assert len(chosen) == 20
    assert chosen != sampled(1000, 20, Rand(1))


def test_all_three_are_measured_on_the_same_clients(tmp_path):
    made = training()
    write_rounds(tmp_path, 5)
    found = Comparison(clients(made), made.shards, ComparisonSettings()).run(made.initial(), nothing, tmp_path)
    assert {found[name]["clients"] for name in ("federated", "alone", "pooled")} == {4}
    assert found["alone"]["times"] == 5
    assert found["pooled"]["samples"] == 5 * 2 * 60
    assert found["alone"]["mean"] > found["federated"]["mean"]  # which is untrained
    held = json.loads((tmp_path / "clients.json").read_text())
    assert sum(held["federated"]) / 4 == pytest.approx(found["federated"]["mean"])
    assert (held["samples"], held["took_part"], len(held["labels"])) == ([15] * 4, [5] * 4, 4)
    gains = [b - a for a, b in zip(held["alone"], held["federated"], strict=True)]
    assert found["alone"]["gain"] == pytest.approx(sum(gains) / 4)
    assert found["alone"]["worse_off"] == sum(gain < 0 for gain in gains) / 4


def test_what_was_held_out_is_not_trained_on_by_anybody(tmp_path):
    made, seen = training(), set()
    home = clients(made, held_out=0.2)

    def train(works):
        seen.update(int(i) for work in works for order in work.orders for i in order)
        return home.train(works)

    write_rounds(tmp_path, 2)
    Comparison(home, made.shards, ComparisonSettings(), train).run(made.initial(), nothing, tmp_path)
    held = {int(i) for client, shard in enumerate(made.shards) for i in home.measuring.own(client, shard).positions}
    assert len(held) == 12
    assert not seen & held
    assert len(seen) == 48


def test_models_of_clients_own_are_measured_with_what_they_remember(tmp_path):
    made = training()
    comparison = Comparison(clients(made, LocalOnly()), made.shards, ComparisonSettings(clients=2))
    memories = {i: {"algorithm": {"parameters": randn(made.layout.numel, seed=i)}} for i in range(4)}
    values = comparison.federated(made.initial(), memories.__getitem__)
    home = clients(made).measuring
    assert len(values) == 2
    for client, value in values.items():
        own = home.own(client, made.shards[client])
        assert home.values(memories[client]["algorithm"]["parameters"], [own]) == [value]


def test_limits_cut_both_short_and_say_so(tmp_path):
    made = training()
    write_rounds(tmp_path, 50)
    settings = ComparisonSettings(samples=480)
    found = Comparison(clients(made), made.shards, settings).run(made.initial(), nothing, tmp_path)
    assert (found["alone"]["times"], found["pooled"]["samples"]) == (4, 480)
    assert len(found["notes"]) == 2
    assert "4 instead of 50" in found["notes"][0]


def test_switched_off_nothing_is_trained(tmp_path):
    made = training()
    write_rounds(tmp_path, 5)

    def train(works):
        raise AssertionError

    settings = ComparisonSettings(alone=False, pooled=False)
    found = Comparison(clients(made), made.shards, settings, train).run(made.initial(), nothing, tmp_path)
    assert (found["alone"], found["pooled"]) == (None, None)
    assert set(in_numbers(found)) == {"clients_mean", "clients_worst_decile", "clients_best_decile"}


def test_training_that_diverges_is_noted(tmp_path):
    made = training()
    write_rounds(tmp_path, 5)
    home = clients(made, lr=3e38)
    found = Comparison(home, made.shards, ComparisonSettings()).run(made.initial(), nothing, tmp_path)
    assert (found["alone"], found["pooled"]) == (None, None)
    assert [("not finite" in note, "failed" in note) for note in found["notes"]] == [(True, True)] * 5


@pytest.mark.parametrize(("after", "left"), [(1, 6), (2, 6), (3, 4), (4, 4), (5, 2), (6, 1)])
def test_a_comparison_that_was_broken_off_comes_to_the_same(tmp_path, after, left, monkeypatch):
    """Two times for each of two pairs of clients are two pieces that are kept; then there are two of pooled data."""
    made, calls = training(), 0
    home = clients(made)
    monkeypatch.setattr("quorate.federated.comparison.AT_ONCE", 2)

    def train(works):
        nonlocal calls
        calls += 1
        if calls == after:
            raise KeyboardInterrupt
        return home.train(works)

    for name in ("whole", "broken"):
        (tmp_path / name).mkdir()
        write_rounds(tmp_path / name, 2)
    whole = Comparison(home, made.shards, ComparisonSettings()).run(made.initial(), nothing, tmp_path / "whole")
    broken = Comparison(home, made.shards, ComparisonSettings(), train)
    with pytest.raises(KeyboardInterrupt):
        broken.run(made.initial(), nothing, tmp_path / "broken")
    calls = 100
    assert broken.run(made.initial(), nothing, tmp_path / "broken") == whole
    assert calls == 100 + left


def test_results_of_other_settings_are_not_taken(tmp_path):
    made = training()
    write_rounds(tmp_path, 5)
    home = clients(made)
    first = Comparison(home, made.shards, ComparisonSettings(times=1)).run(made.initial(), nothing, tmp_path)
    second = Comparison(home, made.shards, ComparisonSettings(times=4)).run(made.initial(), nothing, tmp_path)
    assert list((tmp_path / FOLDER).iterdir())
    assert first["alone"] != second["alone"]


def test_summary_in_words():
    found = Found({0: 0.9, 1: 0.8, 2: 0.7}, {0: 0.95, 1: 0.6}, {0: 0.9, 1: 0.9, 2: 0.9}, 3, 100, ["a note"])
    told = lines(summary(found, "accuracy", True, "its own"))
    assert told == [
        "accuracy of 3 clients, each on its own:",
        "federated 0.8000 (worst decile 0.7000), alone 0.7750 (worst decile 0.6000, 2 clients),"
        " pooled 0.9000 (worst decile 0.9000)",
        "the federation serves 1 of 2 clients as well as training alone or better, by +0.0750 on average; pooled data"
        " would be +0.1000 from it",
        "a note",
    ]


def test_of_losses_less_is_better():
    found = summary(Found({0: 0.5, 1: 0.5}, {0: 1.0, 1: 0.25}), "loss", False, "its own")
    assert found["alone"]["gain"] == pytest.approx(0.125)
    assert found["alone"]["worse_off"] == 0.5
    assert found["federated"]["worst_decile"] == 0.5


def test_nobody_measured_is_said():
    assert lines(summary(Found(), "accuracy", True, "its own")) == ["no client has data to measure its model on"]


def test_a_failed_request_is_an_error_and_no_crash():
    made = training()
    home = clients(made, lr=3e38)
    asked = Asked(0, {}, Request(1, {}, {"times": 3.0, "rounds": 3.0}, "alone"), made.shards[0])
    (result,) = home.answers([asked], home.train)
    assert isinstance(result, QuorateError)
    odd = Asked(0, {}, Request(1, {}, {}, "dance"), made.shards[0])
    (result,) = home.answers([odd], home.train)
    assert isinstance(result, QuorateError)
    assert "dance" in result.problem


def test_clients_answer_what_a_simulation_measures():
    made = training()
    home, parameters = clients(made), randn(made.layout.numel)
    comparison = Comparison(home, made.shards, ComparisonSettings())
    evaluate = Request(7, {"parameters": (parameters,)}, {}, "evaluate")
    train = Request(7, {"parameters": (parameters,)}, {})
    memory = {"algorithm": {"kept": torch.ones(1)}}
    cohort = [Asked(2, memory, evaluate, made.shards[2]), Asked(1, {}, train, made.shards[1])]
    (kept, answer), (_, trained) = home.answers(cohort, home.train)
    assert kept is memory
    assert (answer.kind, answer.messages, answer.client) == ("evaluate", {}, 2)
    assert answer.numbers["value"] == comparison.federated(parameters, nothing)[2]
    assert trained.messages
