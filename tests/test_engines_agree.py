from __future__ import annotations

import json

import pytest
from safetensors.torch import load_file

from quorate import run as runs
from quorate.recipe import load
from tests.commands import READY, call, metrics, result, write_recipe

pytestmark = pytest.mark.processes


@pytest.mark.usefixtures("forked_workers")
@pytest.mark.parametrize(
    ("ready", "size"),
    [
        ("first_run", 4),
        ("local_sgd", 2),
        ("gossip", 2),
        ("parameter_server", 2),
        ("diloco", 2),
        ("adaptive_period", 2),
        ("large_batch", 3),
    ],
)
def test_simulated_and_real_workers_end_with_the_same_bits(ready, size, tmp_path):
    recipe = load(write_recipe(tmp_path, ready=ready))
    simulated = runs.simulate(recipe, size, tmp_path / "simulated")
    real = runs.processes(recipe, size, tmp_path / "real")
    assert real["parameters_sha256"] == simulated["parameters_sha256"]
    assert real["bytes"] == simulated["bytes"]
    assert [real[name] for name in ("accuracy", "loss", "steps")] == [
        simulated[name] for name in ("accuracy", "loss", "steps")
    ]
    links = [json.loads((tmp_path / run / "trace.json").read_text())["links"] for run in ("simulated", "real")]
    assert links[0] == links[1]
    for one, other in zip(metrics(tmp_path / "simulated"), metrics(tmp_path / "real"), strict=True):
        assert one["bytes"] == other["bytes"]
        assert one["train_loss"] == pytest.approx(other["train_loss"], rel=1e-12)
        assert one.get("accuracy") == other.get("accuracy")


def test_the_command_line_gives_the_same_bits_on_either_engine(monkeypatch, capfd, tmp_path):
    recipe = write_recipe(tmp_path)
    outcomes = {}
    for flag in ("--simulate", "--workers"):
        assert call(monkeypatch, "run", recipe, flag, 2, "--out", tmp_path / flag, "--json") == 0
        out, err = capfd.readouterr()
        assert err == ""
        outcomes[flag] = result(out)
        assert (tmp_path / flag / "report.html").is_file()
    assert outcomes["--workers"]["parameters_sha256"] == outcomes["--simulate"]["parameters_sha256"]
    assert outcomes["--workers"]["bytes"] == outcomes["--simulate"]["bytes"]
    one, other = (load_file(tmp_path / flag / "parameters.safetensors") for flag in outcomes)
    assert all((one[name] == other[name]).all() for name in one)


@pytest.mark.parametrize("ready", READY)
def test_how_often_a_run_is_recorded_changes_no_bit(ready, tmp_path):
    recipe = load(write_recipe(tmp_path, ready=ready))
    quiet = load(write_recipe(tmp_path, {"record": {"metrics": 20, "evaluate": 0, "checkpoint": 0}}, ready))
    one, other = (runs.simulate(each, 3, tmp_path / f"{i}") for i, each in enumerate((recipe, quiet)))
    assert one["parameters_sha256"] == other["parameters_sha256"]
