from __future__ import annotations

from functools import partial

import pytest

from quorate import run as runs
from quorate.aggregators.mean import mean
from quorate.collectives.auto import auto
from quorate.collectives.ring import ring
from quorate.engines.overlap import able_to_overlap
from quorate.errors import QuorateError
from quorate.exchange import Exchange
from quorate.recipe import load, parse
from quorate.wire import Incompatible
from tests.commands import call, write_recipe

SLOW = {"latency": "5 ms", "uplink": "10 Mbit/s", "downlink": "10 Mbit/s", "node": [{"ranks": [1], "latency": "10 ms"}]}


def test_a_recipe_names_the_collective_of_its_meetings(tmp_path):
    assert load(write_recipe(tmp_path)).tables["collective"] == {"name": "backend"}
    recipe = load(write_recipe(tmp_path, {"collective": {"name": "ring"}}))
    assert recipe.exchange == Exchange(collective=ring)
    recipe = load(write_recipe(tmp_path, {"collective": {"name": "auto", "latency": "1 ms"}}))
    assert isinstance(recipe.exchange.collective, partial)
    assert recipe.exchange.collective.func is auto
    assert parse(recipe.to_toml(), recipe.name, recipe.folder) == recipe


def test_a_meeting_without_a_sum_has_no_use_for_one():
    def largest(updates, weights=None):
        return updates.max(dim=0).values

    Exchange(aggregator=mean, collective=ring)
    with pytest.raises(Incompatible) as error:
        Exchange(aggregator=largest, collective=ring)
    assert str(error.value) == (
        "the collective `ring` has nothing to sum: messages are gathered and decoded\nhint: leave out [collective]"
    )


def test_sums_of_buckets_that_are_under_way_at_once_must_be_kept_apart():
    with pytest.raises(QuorateError, match="several buckets are exchanged at once, but `ring` can't keep sums apart"):
        able_to_overlap(Exchange(collective=ring))
    assert able_to_overlap(Exchange(collective=auto)).collective.keywords == {"overlapping": True}


def test_one_s_own_collective_is_used(tmp_path):
    (tmp_path / "own.py").write_text(
        "from quorate.collectives.naive import naive\n"
        "async def twice(node, tensor, scale=1.0, *, times: int = 1):\n"
        "    return await naive(node, tensor, scale * times)\n"
    )
    recipe = load(write_recipe(tmp_path, {"collective": {"name": "own.py:twice", "times": 2}}))
    assert recipe.exchange.collective.keywords == {"times": 2}


@pytest.mark.parametrize("name", ["backend", "halving_doubling", "auto", "own.py:mine"])
def test_check_predicts_what_a_meeting_takes(name, monkeypatch, capsys, tmp_path):
    (tmp_path / "own.py").write_text("from quorate.collectives.naive import naive as mine\n")
    settings = {"latency": "20 ms", "rate": "10 Mbit/s"} if name == "auto" else {}
    path = write_recipe(tmp_path, {"collective": {"name": name, **settings}, "cluster": SLOW, "workers": 4})
    assert call(monkeypatch, "check", path) == 0
    rows = [" ".join(line.split()) for line in capsys.readouterr().out.splitlines()]
    assert f"summed by {name}" in rows
    start = rows.index("a meeting should take 1.00 kB 100 kB 10.0 MB")
    # One way between two workers is at most 20 ms; 1 kB takes 0.8 ms at 10 Mbit/s.
    seconds = {
        "backend": "121 ms 240 ms 12.1 s",
        "naive": "22.4 ms 260 ms 24.0 s",
        "direct": "22.4 ms 260 ms 24.0 s",
        "tree": "83.2 ms 400 ms 32.1 s",
        "halving_doubling": "81.2 ms 200 ms 12.1 s",
        "auto": "22.4 ms 200 ms 12.1 s",
        "own.py:mine": "22.4 ms 260 ms 24.0 s",
    }
    assert rows[start + 1] == (
        f"{name} (used) {seconds[name]}" if name != "auto" else "auto, which takes direct halving_doubling backend"
    )
    for other in {"backend", "direct", "naive", "tree", "halving_doubling"} - {name}:
        assert f"{other} {seconds[other]}" in rows


def test_check_predicts_nothing_where_nothing_is_known(monkeypatch, capsys, tmp_path):
    (tmp_path / "own.py").write_text("def mine(node, tensor, scale=1.0):\n    return node.all_reduce(tensor, scale)\n")
    path = write_recipe(tmp_path, {"collective": {"name": "own.py:mine"}})
    assert call(monkeypatch, "check", path, "--workers", 1) == 0
    rows = [" ".join(line.split()) for line in capsys.readouterr().out.splitlines()]
    assert "own.py:mine (used) – – –" in rows  # noqa: RUF001
    assert "naive 0 s 0 s 0 s" in rows


@pytest.mark.usefixtures("forked_workers")
@pytest.mark.processes
@pytest.mark.parametrize(("name", "size"), [("halving_doubling", 3), ("auto", 2)])
def test_simulated_and_real_runs_end_with_the_same_bits(name, size, tmp_path):
    recipe = load(write_recipe(tmp_path, {"collective": {"name": name}}, "local_sgd"))
    simulated = runs.simulate(recipe, size, tmp_path / "simulated")
    real = runs.processes(recipe, size, tmp_path / "real")
    for key in ("parameters_sha256", "bytes", "loss"):
        assert real[key] == simulated[key]
