"""Whole runs of the sparse server, by recipe: both engines, resumption, what is stored, and what is refused."""

from __future__ import annotations

import json
import tomllib
from pathlib import Path

import pytest
import tomli_w
import torch
from safetensors.torch import load_file

from quorate import run as runs
from quorate.errors import RecipeError
from quorate.recipe import load
from tests.commands import (
    RECIPES,
    has_checkpoint,
    kill,
    metrics,
    result,
    started,
    stop_at,
    until,
    workers,
    write_recipe,
)

pytestmark = pytest.mark.usefixtures("without_reports")
RECORD = {"metrics": 5, "evaluate": 10, "checkpoint": 4}


def recipe(folder: Path, steps: int = 20, **program: object) -> Path:
    """Write a recipe, and rows of three features of which the first gives the click away."""
    lines = [f"{int(i % 3 == 0)} {i % 3}:1 {10 + i % 11}:1 {30 + i % 7}:1\n" for i in range(200)]
    (folder / "a.txt").write_text("".join(lines))
    whole = tomllib.loads((RECIPES / "sparse_clicks.toml").read_text())
    whole["task"] |= {"file": "a.txt", "factors": 3}
    whole["program"] |= {"steps": steps, "batch": 8} | program
    whole |= {"record": RECORD}
    path = folder / "sparse.toml"
    path.write_text(tomli_w.dumps(whole))
    return path


@pytest.mark.processes
@pytest.mark.usefixtures("forked_workers")
@pytest.mark.parametrize("more", [{}, {"colocated": False, "servers": 1}])
def test_simulated_and_real_workers_end_with_the_same_bits(more, tmp_path):
    chosen = load(recipe(tmp_path, **more))
    simulated = runs.simulate(chosen, 3, tmp_path / "simulated", tmp_path)
    real = runs.processes(chosen, 3, tmp_path / "real", tmp_path)
    assert {name: real[name] for name in ("parameters_sha256", "bytes", "loss", "steps")} == {
        name: simulated[name] for name in ("parameters_sha256", "bytes", "loss", "steps")
    }
    links = [json.loads((tmp_path / run / "trace.json").read_text())["links"] for run in ("simulated", "real")]
    assert links[0] == links[1]
    stored = load_file(tmp_path / "real" / "parameters.safetensors")
    assert torch.equal(stored["ids"], stored["ids"].unique())
    assert stored["ids"][-1] == 1 << 30  # the bias
    assert stored["rows"].shape == (len(stored["ids"]), 4)
    assert len(stored["ids"]) == 3 + 11 + 7 + 1
    evaluated = [line for line in metrics(tmp_path / "real") if "log_loss" in line]
    assert [line["step"] for line in evaluated] == [10, 20]
    assert evaluated[1]["auc"] == 1


@pytest.mark.parametrize("staleness", [0, 2, float("inf")])
@pytest.mark.parametrize("step", [2, 12, 14, 20])
def test_a_resumed_simulation_is_like_an_uninterrupted_one(staleness, step, tmp_path):
    chosen = load(recipe(tmp_path, staleness=staleness))
    whole = runs.simulate(chosen, 3, tmp_path / "whole", tmp_path)
    with pytest.raises(KeyboardInterrupt):
        runs.simulate(chosen, 3, tmp_path / "stopped", tmp_path, progress=stop_at(step))
    resumed = runs.resume(tmp_path / "stopped")
    same = ("loss", "steps", "parameters_sha256")
    assert {name: resumed[name] for name in same} == {name: whole[name] for name in same}
    kept = ("step", "train_loss", "test_loss")
    one, other = (
        [{name: line.get(name) for name in kept} for line in metrics(tmp_path / run)] for run in ("stopped", "whole")
    )
    assert one == other


@pytest.mark.processes
def test_killed_workers_go_on_from_their_checkpoint(tmp_path):
    path, run = recipe(tmp_path, 400), tmp_path / "run"
    with started("run", path, "--workers", 2, "--out", run, "--data", tmp_path, TMPDIR=tmp_path) as process:
        until(has_checkpoint(run))
        kill(process.pid)
        until(lambda: not workers(run))
        process.communicate(timeout=200)
    whole = runs.simulate(load(path), 2, tmp_path / "whole", tmp_path)
    with started("resume", run, "--json", "--data", tmp_path) as process:
        out, err = process.communicate(timeout=200)
    assert err == ""
    assert result(out)["parameters_sha256"] == whole["parameters_sha256"]


def test_how_often_a_run_is_recorded_changes_no_bit(tmp_path):
    path = recipe(tmp_path)
    often = runs.simulate(load(path), 3, tmp_path / "often", tmp_path)
    whole = tomllib.loads(path.read_text()) | {"record": {"metrics": 20, "evaluate": 0, "checkpoint": 0}}
    path.write_text(tomli_w.dumps(whole))
    assert runs.simulate(load(path), 3, tmp_path / "quiet", tmp_path)["parameters_sha256"] == often["parameters_sha256"]


def test_a_table_is_refused_by_programs_that_would_send_it_whole(tmp_path):
    path = write_recipe(tmp_path, {"task": {"name": "sparse_clicks"}})
    with pytest.raises(RecipeError) as error:
        load(path)
    assert str(error.value) == (
        "task `sparse_clicks` is a table, which program `synchronous_sgd` would hold and send whole"
        '\nhint: name = "sparse_server" in [program]'
    )


def test_a_model_that_is_no_table_is_refused_by_the_sparse_server(tmp_path):
    path = write_recipe(tmp_path, {"program": {"name": "sparse_server", "steps": 3}})
    with pytest.raises(RecipeError) as error:
        load(path)
    assert str(error.value) == (
        'program `sparse_server` trains tables, which task `digits` is none of\nhint: name = "sparse_clicks" in [task]'
    )


def test_a_task_of_ones_own_that_says_nothing_is_refused_when_it_is_loaded(tmp_path):
    text = "from quorate.tasks.digits import digits as dense\ndef task():\n    return dense()\n"
    (tmp_path / "own.py").write_text(text)
    program = {"program": {"name": "sparse_server", "steps": 3}, "task": {"name": "own.py:task"}}
    with pytest.raises(RecipeError, match=r"trains tables, which task `own\.py:task` is none of"):
        runs.simulate(load(write_recipe(tmp_path, program)), 2, tmp_path / "run")


def test_workers_that_come_and_go_train_no_table(tmp_path):
    with pytest.raises(RecipeError):
        runs.elastic(load(recipe(tmp_path)), 3, tmp_path / "run", tmp_path)
    with pytest.raises(RecipeError, match="trains a table, which workers that come and go can't"):
        load(recipe(tmp_path)).task(tmp_path)
