"""Whole runs under redundancy codes, from recipes, on the simulator and on real processes; and under other codes."""

from __future__ import annotations

from functools import partial
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file

from quorate import run as runs
from quorate.aggregators import needs
from quorate.attacks.constant import Constant
from quorate.attacks.gaussian import Gaussian
from quorate.attacks.not_finite import NotFinite
from quorate.attacks.reversed_gradient import ReversedGradient
from quorate.codecs.top_k import TopK
from quorate.codes.cyclic import Cyclic
from quorate.codes.repetition import Repetition
from quorate.collectives.ring import ring
from quorate.errors import RecipeError, RunError
from quorate.exchange import Exchange
from quorate.hostility import Hostility
from quorate.plan import plan_of
from quorate.programs.coded_sgd import coded_sgd
from quorate.rand import Rand
from quorate.recipe import load
from quorate.wire import Opens
from tests.commands import metrics, write_recipe
from tests.programs.test_coded_sgd import SGD, STEPS, Told, liars, run
from tests.programs.test_laws import assert_same

LONG = {"steps": 60, "batch": 4}
FIVE = {"attack": {"name": "constant"}, "hostile": {"ranks": [1, 5, 6, 10, 14]}}
HONEST = {"attack": None, "hostile": None}


def recipe_of(tmp_path, changes, **program):
    ready = "robust/draco"
    (tmp_path / "robust").mkdir(exist_ok=True)
    program = {"name": "coded_sgd", "steps": 20, "batch": 4} | program
    return load(write_recipe(tmp_path, {"program": program} | changes, ready))


@pytest.mark.parametrize("size", [5, 6, 9])
@pytest.mark.parametrize("attack", [ReversedGradient(), Constant(), NotFinite(), Gaussian()], ids=str)
@pytest.mark.parametrize("s", [1, 2])
def test_liars_under_the_cyclic_code_change_rounding_only(attack, s, size):
    told, ranks = Told(), tuple(range(0, 2 * s, 2))
    ends = run(size, code=Cyclic(s), hostility=liars(attack, ranks), memory=told)
    assert_same(ends, [ends[0]] * size)
    torch.testing.assert_close(ends[0], run(size, code=Cyclic(s))[0], rtol=1e-5, atol=1e-5)
    torch.testing.assert_close(ends[0], run(size, code=Repetition(0))[0], rtol=1e-5, atol=1e-5)
    assert told.kept[0, STEPS][0]["convictions"].tolist() == [STEPS * (rank in ranks) for rank in range(size)]


@pytest.mark.parametrize("forges", ["answer", "upload"])
def test_the_excluded_are_missing_from_the_cyclic_code(forges):
    told = Told()
    ends = run(9, code=Cyclic(2), hostility=liars(Constant(), (1, 5)), forges=forges, exclude=True, memory=told)
    torch.testing.assert_close(ends[0], run(9, code=Cyclic(2))[0], rtol=1e-5, atol=1e-5)
    assert [told.metrics[step + 1]["convicted"] for step in range(STEPS)] == [2, 0, 0, 0, 0, 0]
    assert [told.metrics[step + 1]["excluded"] for step in range(STEPS)] == [0, 2, 2, 2, 2, 2]


def test_more_liars_than_the_cyclic_code_withstands_stop_the_run():
    with pytest.raises(RunError, match=r"step 1.*more than s = 1 of 9 answers"):
        run(9, code=Cyclic(1), hostility=liars(Gaussian(), (0, 4)))


@needs(Opens.EACH)
def compares(updates, weights=None):
    """Compare the updates of a round."""


@pytest.mark.parametrize(
    ("size", "given", "exchange", "says"),
    [
        (8, {}, None, "which 8 workers do not make\nhint: workers = 9"),
        (9, {}, Exchange(TopK(0.1)), "would change\nhint: leave out [[codec]]"),
        (9, {}, Exchange(aggregator=compares), "compares has nothing to combine\nhint: leave out [aggregator]"),
        (9, {}, Exchange(collective=ring), "not summed on their way\nhint: leave out [collective]"),
        (
            9,
            {"exclude": True},
            Exchange(hostility=Hostility(Constant(), Rand(0), redrawn=True)),
            "all would be excluded before long\nhint: exclude = false",
        ),
    ],
)
def test_refuses_what_makes_no_sense(size, given, exchange, says):
    with pytest.raises(RecipeError) as error:
        plan_of(partial(coded_sgd, optimizer=SGD, code=Repetition(), **given), size, exchange=exchange)
    assert says in str(error.value)


def test_says_what_it_will_do():
    plan = plan_of(partial(coded_sgd, optimizer=SGD, code=Repetition()), 9, exchange=Exchange())
    assert (plan.trainers, plan.alone, plan.meets) == (9, True, True)
    assert dict(plan.says) == {
        "code": "repetition: every worker takes 3 gradients a step, each batch is held by 3",
        "answers": "digests, and what has won once, in pieces",
        "data": "every worker reads all of it, whatever the partition",
    }


def test_five_liars_change_no_bit(tmp_path):
    found = {}
    for name, changes in (("honest", HONEST), ("attacked", FIVE)):
        recipe = recipe_of(tmp_path, changes | {"workers": 15}, **LONG)
        found[name] = runs.simulate(recipe, 15, tmp_path / name)
    assert found["attacked"]["parameters_sha256"] == found["honest"]["parameters_sha256"]
    assert found["attacked"]["accuracy"] > 0.9
    assert [each["convicted"] for each in metrics(tmp_path / "attacked") if "convicted" in each] == [5.0] * 12


def test_five_liars_change_rounding_only_of_the_cyclic_code(tmp_path):
    ends = []
    for changes in (HONEST, FIVE):
        recipe = recipe_of(tmp_path, changes | {"workers": 15, "code": {"name": "cyclic", "s": 5}}, **LONG)
        where = Path(runs.simulate(recipe, 15, tmp_path / f"{len(ends)}")["run"])
        ends.append(load_file(where / "parameters.safetensors"))
    for name, honest in ends[0].items():
        torch.testing.assert_close(ends[1][name], honest, rtol=0, atol=1e-5)


@pytest.mark.processes
@pytest.mark.timeout(240)
@pytest.mark.parametrize(("size", "ranks", "program"), [(6, [1, 3], {}), (3, [0], {"forges": "upload"})])
def test_real_workers_some_of_whom_lie_end_with_the_bits_of_simulated_honest_ones(size, ranks, program, tmp_path):
    honest = runs.simulate(recipe_of(tmp_path, HONEST | {"workers": size}, **program), size, tmp_path / "honest")
    attacked = recipe_of(tmp_path, {"workers": size, "hostile": {"ranks": ranks}}, exclude=True, **program)
    simulated = runs.simulate(attacked, size, tmp_path / "simulated")
    real = runs.processes(attacked, size, tmp_path / "real")
    assert real["parameters_sha256"] == simulated["parameters_sha256"] == honest["parameters_sha256"]
    assert real["bytes"] == simulated["bytes"]
    one, other = (metrics(tmp_path / name) for name in ("simulated", "real"))
    assert [each.get("excluded") for each in one] == [each.get("excluded") for each in other]
    assert {each["excluded"] for each in other if "excluded" in each} == {len(ranks)}
