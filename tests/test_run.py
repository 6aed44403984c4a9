from __future__ import annotations

import pytest
import torch

from quorate import checkpoint, folder
from quorate import run as runs
from quorate.errors import RunError
from quorate.recipe import load
from tests.commands import (
    READY,
    call,
    has_checkpoint,
    kill,
    metrics,
    started,
    stop_at,
    until,
    workers,
    write_recipe,
    write_task,
)

pytestmark = pytest.mark.usefixtures("without_reports")
SAME = ("accuracy", "loss", "steps", "clock_seconds", "bytes", "parameters_sha256")
ADAM = {"optimizer": {"name": "adam", "lr": 0.01, "amsgrad": True}}


def same(resumed, whole) -> None:
    """Check that a resumed simulation is like one that was never interrupted, in all but real seconds."""
    for name in SAME:
        assert resumed[name] == whole[name]


@pytest.mark.parametrize(
    ("ready", "changes", "step"),
    [
        *((ready, {}, 14) for ready in READY),
        *((ready, ADAM, 14) for ready in READY),
        ("first_run", {}, 2),
        ("first_run", {}, 12),
        ("first_run", {}, 20),
        ("first_run", {"optimizer": {"name": "muon", "lr": 0.01}, "task": {"name": "mlp.py:mlp"}}, 14),
    ],
)
def test_a_resumed_simulation_is_like_an_uninterrupted_one(ready, changes, step, tmp_path):
    (tmp_path / "mlp.py").write_text(MATRICES)
    recipe = load(write_recipe(tmp_path, changes, ready))
    whole = runs.simulate(recipe, 3, tmp_path / "whole")
    with pytest.raises(KeyboardInterrupt):
        runs.simulate(recipe, 3, tmp_path / "stopped", progress=stop_at(step))
    assert folder.read(tmp_path / "stopped")["status"] == "failed"
    same(runs.resume(tmp_path / "stopped"), whole)
    assert metrics(tmp_path / "stopped") == metrics(tmp_path / "whole")
    assert folder.read(tmp_path / "stopped")["status"] == "finished"


MATRICES = """
from dataclasses import replace

from torch import nn

from quorate.tasks.digits import digits


def mlp():
    return replace(digits(), model=lambda: nn.Linear(64, 10, bias=False))
"""


def test_a_run_may_be_interrupted_again_and_again(tmp_path):
    recipe = load(write_recipe(tmp_path, {"record": {"metrics": 3, "evaluate": 7, "checkpoint": 2}}))
    whole = runs.simulate(recipe, 2, tmp_path / "whole")
    with pytest.raises(KeyboardInterrupt):
        runs.simulate(recipe, 2, tmp_path / "stopped", progress=stop_at(5))
    for step in (7, 8, 13, 20):
        with pytest.raises(KeyboardInterrupt):
            runs.resume(tmp_path / "stopped", progress=stop_at(step))
    same(runs.resume(tmp_path / "stopped"), whole)
    assert metrics(tmp_path / "stopped") == metrics(tmp_path / "whole")


def test_without_checkpoints_a_run_begins_anew(tmp_path):
    recipe = load(write_recipe(tmp_path, {"record": {"metrics": 3, "checkpoint": 0}}))
    whole = runs.simulate(recipe, 2, tmp_path / "whole")
    with pytest.raises(KeyboardInterrupt):
        runs.simulate(recipe, 2, tmp_path / "stopped", progress=stop_at(15))
    assert not (tmp_path / "stopped" / "checkpoints").exists()
    same(runs.resume(tmp_path / "stopped"), whole)
    assert metrics(tmp_path / "stopped") == metrics(tmp_path / "whole")


def test_a_vectorised_run_says_why_gradients_were_taken_one_by_one(tmp_path):
    text = "from torch import nn\nfrom dataclasses import replace\nfrom quorate.tasks.digits import digits\n"
    text += (
        "def task():\n    return replace(digits(), model=lambda: nn.Sequential(nn.Dropout(0.1), nn.Linear(64, 10)))\n"
    )
    (tmp_path / "own.py").write_text(text)
    changes = {"task": {"name": "own.py:task"}, "simulator": {"batching": "vectorised"}}
    runs.simulate(load(write_recipe(tmp_path, changes)), 2, tmp_path / "run")
    facts = folder.read(tmp_path / "run")
    assert facts["batching"] == "vectorised"
    assert facts["one_by_one_because"]


def test_seeds_give_different_runs(tmp_path):
    path = write_recipe(tmp_path)
    one, other = (runs.simulate(runs.changed(path, seed, 2), 2, tmp_path / str(seed)) for seed in (7, 8))
    assert one["parameters_sha256"] != other["parameters_sha256"]
    assert folder.read(tmp_path / "8")["seed"] == 8
    assert load(tmp_path / "8" / "recipe.toml").seed == 8


@pytest.mark.processes
def test_a_killed_simulation_is_resumed(tmp_path):
    recipe, run = write_task(tmp_path, 40), tmp_path / "run"
    with started("run", recipe, "--simulate", 3, "--out", run, SECONDS_PER_LOSS=0.02) as process:
        until(has_checkpoint(run))
        kill(process.pid)
        process.communicate(timeout=200)
    assert folder.read(run)["status"] == "running"
    assert max(checkpoint.steps(run / "checkpoints", 1)) < 40
    same(runs.resume(run), runs.simulate(load(recipe), 3, tmp_path / "whole"))
    assert metrics(run) == metrics(tmp_path / "whole")


@pytest.mark.processes
def test_real_workers_die_with_a_killed_launcher_and_the_run_is_resumed(tmp_path):
    recipe, run = write_task(tmp_path, 100), tmp_path / "run"
    with started("run", recipe, "--workers", 2, "--out", run, SECONDS_PER_LOSS=0.05, TMPDIR=tmp_path) as process:
        until(lambda: len(workers(run)) == 2)
        until(has_checkpoint(run))
        with pytest.raises(RunError) as error:
            runs.resume(run)
        assert str(error.value) == f"`{run}` is being written by a run that still goes on"
        kill(process.pid)
        until(lambda: not workers(run))
        process.communicate(timeout=200)
    whole = runs.simulate(load(recipe), 2, tmp_path / "whole")
    resumed = runs.resume(run)
    for name in ("steps", "bytes", "parameters_sha256"):
        assert resumed[name] == whole[name]
    assert [line["step"] for line in metrics(run)] == [line["step"] for line in metrics(tmp_path / "whole")]
    assert [line["bytes"] for line in metrics(run)] == [line["bytes"] for line in metrics(tmp_path / "whole")]


@pytest.mark.processes
def test_workers_whose_launcher_died_before_they_were_ready_write_nothing(tmp_path):
    recipe, run = write_task(tmp_path, 20), tmp_path / "run"
    with started("run", recipe, "--workers", 2, "--out", run, TMPDIR=tmp_path) as process:
        until(lambda: len(workers(run)) == 2)
        kill(process.pid)
        until(lambda: not workers(run))
        process.communicate(timeout=200)
    assert not (run / "metrics.jsonl").exists()
    assert not (run / "checkpoints").exists()


@pytest.mark.usefixtures("forked_workers")
@pytest.mark.processes
def test_a_damaged_checkpoint_of_one_worker_is_named_without_a_traceback(monkeypatch, capfd, tmp_path):
    run = folder.create(tmp_path / "run", load(write_task(tmp_path, 8)), "processes", 2, None, {})
    for writer in range(2):
        checkpoint.write(run / "checkpoints", 4, writer, 2, {}, {writer: {"a": torch.zeros(9)}}, {})
    path = checkpoint.path_of(run / "checkpoints", 4, 1, 2)
    path.write_bytes(path.read_bytes()[:-20])
    assert call(monkeypatch, "resume", run) == 1
    out, err = capfd.readouterr()
    assert out == ""
    assert err.startswith(f"error: checkpoint {path} is cut short or damaged (SafetensorError: ")
    assert "Traceback" not in err
    assert folder.read(run)["status"] == "failed"
