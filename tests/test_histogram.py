from __future__ import annotations

import json
import math

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from quorate import run
from quorate.codecs.top_k import TopK
from quorate.errors import RunError
from quorate.exchange import Exchange
from quorate.histogram import RATIOS, Histograms, measure
from quorate.metrics_file import read_lines
from quorate.rand import At, Rand
from quorate.recipe import load
from tests.commands import stop_at, write_recipe
from tests.tiny import randn

numbers = st.lists(st.floats(width=32) | st.sampled_from([0.0, 1.0, -2.0, 0.5**0.5]), min_size=1, max_size=60)


def slow_measure(values):
    """The definition by the book, one entry after the other."""
    finite = [value for value in values if math.isfinite(value)]
    bins = {}
    for value in finite:
        if value:
            mantissa, exponent = math.frexp(abs(value))
            pair = bins.setdefault(2 * exponent - 2 + (mantissa >= math.sqrt(0.5)), [0, 0])
            pair[value < 0] += 1
    first, last = (min(bins), max(bins)) if bins else (0, -1)
    rows = [bins.get(b, [0, 0]) for b in range(first, last + 1)]
    whole = sum(value**2 for value in finite)
    top = []
    for ratio in RATIOS:
        k = min(len(finite), max(1, round(ratio * len(finite))))
        largest = sorted((abs(value) for value in finite), reverse=True)[:k]
        top.append([k, sum(value**2 for value in largest) / whole if whole else None])
    return {
        "entries": len(values),
        "zeros": finite.count(0.0),
        "wrong": len(values) - len(finite),
        "first": first,
        "positive": [pair[0] for pair in rows],
        "negative": [pair[1] for pair in rows],
        "top": top,
    }


@given(values=numbers, dtype=st.sampled_from([torch.float32, torch.float64]))
def test_agrees_with_the_definition(values, dtype):
    x = torch.tensor(values, dtype=dtype)
    told, expected = measure(x), slow_measure(x.tolist())
    for (k, energy), (expected_k, expected_energy) in zip(told.pop("top"), expected.pop("top"), strict=True):
        assert k == expected_k
        assert energy == (None if expected_energy is None else pytest.approx(expected_energy, rel=1e-6))
    assert {key: told[key] for key in expected} == expected
    assert sum(told["positive"]) + sum(told["negative"]) + told["zeros"] + told["wrong"] == len(values)
    assert json.loads(json.dumps(told, allow_nan=False)) == told


def test_moments_are_those_of_known_distributions():
    generator = torch.Generator().manual_seed(1)
    normal = measure(3 * torch.randn(200_000, generator=generator) + 1)
    assert (normal["mean"], normal["sigma"]) == (pytest.approx(1, abs=0.03), pytest.approx(3, rel=0.01))
    assert normal["kurtosis"] == pytest.approx(3, abs=0.1)
    uniform = measure(torch.rand(200_000, generator=generator))
    assert uniform["kurtosis"] == pytest.approx(1.8, abs=0.02)
    assert measure(torch.full((5,), 2.0))["kurtosis"] is None
    assert measure(torch.zeros(3))["sigma"] == 0.0


def test_what_top_k_loses_of_a_normal_update_is_below_both_bounds():
    x = randn(1, 50_000)[0]
    for k, energy in measure(x)["top"]:
        assert 1 - energy < (1 - k / 50_000) ** 2 < 1 - k / 50_000


def test_nothing_and_huge_and_wrong_entries_are_told():
    assert measure(torch.tensor([math.nan, math.inf, -math.inf])) == {
        "entries": 3,
        "zeros": 0,
        "wrong": 3,
        "first": 0,
        "positive": [],
        "negative": [],
        "mean": None,
        "sigma": None,
        "kurtosis": None,
        "top": [[0, None], [0, None]],
    }
    huge = measure(torch.tensor([1e308, -1e308, 1e-308], dtype=torch.float64))
    assert (huge["first"], len(huge["positive"])) == (-2000, 4001)
    assert huge["top"][0] == [1, 0.5]
    assert huge["sigma"] == pytest.approx(1e308 * math.sqrt(2 / 3))


class Kept:
    """Lines of JSON that are kept in memory."""

    def __init__(self, last=0):
        self.last, self.lines = last, []

    def write(self, line):
        self.lines.append(line)

    def close(self):
        self.lines.append("closed")


def noted(steps, interval, last=0):
    """Return the steps that are noted of those in which something was said."""
    kept = Kept(last)
    histograms = Histograms(kept, interval)
    for step in steps:
        histograms.watch(torch.ones(3), At(step - 1, 0, 2, Rand(0)))
        histograms.watch(torch.ones(4), At(step - 1, 1, 2, Rand(0)))
        histograms.flush()
    return [line["step"] for line in kept.lines]


def test_the_first_message_from_each_multiple_on_is_noted():
    assert noted(range(1, 22), 5) == [5, 10, 15, 20]
    assert noted([8, 16, 24, 32], 10) == [16, 24, 32]
    assert noted([8, 16, 24, 32], 1) == [8, 16, 24, 32]
    for resumed_at in (8, 10, 16, 20):
        before = noted([step for step in (8, 16, 24, 32, 40) if step <= resumed_at], 10)
        after = noted([step for step in (8, 16, 24, 32, 40) if step > resumed_at], 10, last=max(before, default=0))
        assert before + after == noted([8, 16, 24, 32, 40], 10)


def test_pieces_of_one_step_are_one_update():
    kept = Kept()
    histograms = Histograms(kept, 2)
    for step in (1, 2, 2, 3, 4):
        update = torch.full((3,), float(step))
        histograms.watch(update, At(step - 1, 0, 2, Rand(0)))
        update.zero_()  # it is given away
    histograms.flush()
    assert [(line["step"], line["entries"], line["zeros"]) for line in kept.lines] == [(2, 6, 0), (4, 3, 0)]
    histograms.close()
    assert kept.lines[-1] == "closed"
    silent = Histograms(None, 0)
    silent.watch(torch.ones(2), At(0, 0, 1, Rand(0)))
    silent.flush()
    silent.close()


def test_an_exchange_shows_what_it_is_given_before_it_refuses_it():
    seen = []
    exchange = Exchange(watch=lambda update, at: seen.append((update.clone(), at)))
    at = At(0, 0, 2, Rand(0))
    exchange.say(torch.ones(3), {}, at)
    assert exchange == Exchange()
    assert torch.equal(seen[0][0], torch.ones(3))
    with pytest.raises(RunError, match="step 1, rank 0: entry 1 of the update is nan"):
        Exchange(TopK(0.5), watch=lambda update, at: seen.append(update.clone())).say(
            torch.tensor([0.0, math.nan]), {}, at
        )
    assert len(seen) == 2


CODECS = [{"name": "error_feedback"}, {"name": "top_k", "ratio": 0.01}]


def recipe_with(tmp_path, ready="first_run", **changes):
    path = write_recipe(
        tmp_path, {"record": {"histogram": 3, "checkpoint": 4, "evaluate": 0}, "workers": 4, **changes}, ready
    )
    return load(path)


@pytest.mark.parametrize(
    ("ready", "changes", "steps"),
    [
        ("first_run", {"codec": CODECS}, [3, 6, 9, 12, 15, 18]),
        ("local_sgd", {}, [8, 16, 20]),
        ("gossip", {}, [3, 6, 9, 12, 15, 18]),
        ("parameter_server", {}, [3, 6, 9, 12, 15, 18]),
    ],
)
def test_a_run_notes_whole_updates(tmp_path, ready, changes, steps):
    recipe = recipe_with(tmp_path, ready, **changes)
    run.simulate(recipe, 4, tmp_path / "run")
    lines = read_lines(tmp_path / "run" / "histogram.jsonl")
    assert [line["step"] for line in lines] == steps
    assert {line["entries"] for line in lines} == {4810}


def test_a_resumed_run_notes_what_an_uninterrupted_one_does(tmp_path):
    recipe = recipe_with(tmp_path, codec=CODECS)
    run.simulate(recipe, 4, tmp_path / "straight")
    with pytest.raises(KeyboardInterrupt):
        run.simulate(recipe, 4, tmp_path / "stopped", progress=stop_at(11))
    run.resume(tmp_path / "stopped")
    one, other = ((tmp_path / name / "histogram.jsonl").read_text() for name in ("straight", "stopped"))
    assert one == other
    assert len(one.splitlines()) == 6


def test_a_run_that_is_not_asked_notes_nothing(tmp_path):
    recipe = recipe_with(tmp_path, record={"evaluate": 0})
    run.simulate(recipe, 2, tmp_path / "run")
    assert not (tmp_path / "run" / "histogram.jsonl").exists()
    assert "histogram.jsonl" not in (tmp_path / "run" / "report.html").read_text()
