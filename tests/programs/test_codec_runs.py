"""Whole runs with codecs: simulated and real workers agree to the bit, and so do resumed and uninterrupted ones."""

from __future__ import annotations

import json
import shutil
import tomllib

import pytest
from safetensors import safe_open

from quorate import checkpoint, folder
from quorate import run as runs
from quorate.errors import QuorateError
from quorate.recipe import load
from tests.commands import call, metrics, stop_at, write_recipe

pytestmark = pytest.mark.usefixtures("without_reports")
TOP_K = {"name": "top_k", "ratio": 0.02}
FEEDBACK = [{"name": "error_feedback"}, TOP_K]
REMEMBERING = {
    "plain": FEEDBACK,
    "momentum": [{"name": "error_feedback", "momentum": 0.5}, TOP_K],
    "warm_up": [{"name": "error_feedback", "warm_up": 12}, TOP_K],
}
READY = {
    "first_run": REMEMBERING,
    "local_sgd": REMEMBERING,
    "diloco": {"plain": FEEDBACK},
    "parameter_server": REMEMBERING,
    "gossip": {"feedback": FEEDBACK, "alone": [TOP_K]},
    "easgd": {"alone": [TOP_K]},
    "downpour": {"plain": FEEDBACK},
}
STOPS = [  # each program stops at each of the steps, with one of its codecs
    (ready, kinds[turn % len(kinds)], step, size)
    for ready, kinds in ((ready, list(kinds)) for ready, kinds in READY.items())
    for turn, (step, size) in enumerate([(6, 2), (13, 3), (9, 5)])
]
PLAIN_SGD = {"name": "sgd", "lr": 0.05}


def recipe_of(tmp_path, ready, kind, **more):
    changes = {"codec": READY[ready][kind], "optimizer": PLAIN_SGD}
    if ready in ("easgd", "downpour"):
        ready, changes["program"] = "local_sgd", {"name": ready, "steps": 20}
    return load(write_recipe(tmp_path, changes | more, ready))


def interrupted(run, size, step):
    """Make a finished run look as if it had been killed after the checkpoint of a step."""
    for later in [each for each in checkpoint.steps(run / "checkpoints", size) if each > step]:
        for writer in range(size):
            checkpoint.path_of(run / "checkpoints", later, writer, size).unlink()
    folder.update(run, {"status": "running", "result": None})
    return run


def same(resumed, whole, what=("parameters_sha256", "loss", "bytes", "clock_seconds")):
    assert {name: resumed[name] for name in what} == {name: whole[name] for name in what}


@pytest.mark.parametrize(("ready", "kind", "step", "size"), STOPS)
def test_a_resumed_simulation_is_like_an_uninterrupted_one(ready, kind, step, size, tmp_path):
    recipe = recipe_of(tmp_path, ready, kind, simulator={"paranoid": step == 6})
    whole = runs.simulate(recipe, size, tmp_path / "whole")
    with pytest.raises(KeyboardInterrupt):
        runs.simulate(recipe, size, tmp_path / "stopped", progress=stop_at(step))
    same(runs.resume(tmp_path / "stopped"), whole)
    assert metrics(tmp_path / "stopped") == metrics(tmp_path / "whole")


def test_workers_of_different_speed_are_saved_as_of_one_step(tmp_path):
    """The fast ones are steps ahead when the slow one comes to a checkpoint, and have written to their residuals."""
    cluster = {"seconds_per_sample": {"name": "lognormal", "median": 1e-4, "sigma": 1.0, "drawn": "step"}}
    for ready, more in (("gossip", {}), ("parameter_server", {"staleness": 3})):
        program = tomllib.loads(write_recipe(tmp_path, ready=ready).read_text())["program"] | more
        kind = next(iter(READY[ready]))
        recipe = recipe_of(tmp_path, ready, kind, cluster=cluster, program=program)
        whole = runs.simulate(recipe, 4, tmp_path / ready)
        with pytest.raises(KeyboardInterrupt):
            runs.simulate(recipe, 4, tmp_path / f"{ready}-stopped", progress=stop_at(9))
        same(runs.resume(tmp_path / f"{ready}-stopped"), whole, ("parameters_sha256", "loss", "clock_seconds"))


@pytest.mark.processes
@pytest.mark.usefixtures("forked_workers")
@pytest.mark.parametrize(
    ("ready", "kind", "size"),
    [
        ("first_run", "momentum", 2),
        ("local_sgd", "warm_up", 3),
        ("parameter_server", "warm_up", 2),
        ("gossip", "alone", 3),
        ("easgd", "alone", 2),
        ("diloco", "plain", 2),
    ],
)
def test_real_workers_end_with_the_bits_of_simulated_ones_also_when_resumed(ready, kind, size, tmp_path):
    recipe = recipe_of(tmp_path, ready, kind)
    simulated = runs.simulate(recipe, size, tmp_path / "simulated")
    real = runs.processes(recipe, size, tmp_path / "real")
    assert real["parameters_sha256"] == simulated["parameters_sha256"]
    assert real["bytes"] == simulated["bytes"]
    links = [json.loads((tmp_path / run / "trace.json").read_text())["links"] for run in ("simulated", "real")]
    assert links[0] == links[1]
    shutil.copytree(tmp_path / "real", tmp_path / "again")
    resumed = runs.resume(interrupted(tmp_path / "again", size, 16))
    assert all(resumed[name] == real[name] for name in ("parameters_sha256", "bytes", "loss"))


@pytest.mark.processes
@pytest.mark.usefixtures("forked_workers")
def test_real_workers_of_downpour_train_with_a_codec_and_are_resumed(tmp_path):
    """In which order they come to the centre is not repeatable, but what they say is."""
    recipe, run = recipe_of(tmp_path, "downpour", "plain"), tmp_path / "run"
    dense = runs.simulate(recipe_of(tmp_path, "downpour", "plain", codec=None), 2, tmp_path / "dense")
    real = runs.processes(recipe, 2, run)
    assert real["bytes"] == runs.simulate(recipe, 2, tmp_path / "simulated")["bytes"] < 0.6 * dense["bytes"]
    losses = [line["train_loss"] for line in metrics(run)]
    assert losses[-1] < losses[0]
    resumed = runs.resume(interrupted(run, 2, 16))
    assert (resumed["steps"], resumed["bytes"], len(metrics(run))) == (20, real["bytes"], len(losses))


def test_a_checkpoint_names_the_parameters_that_a_residual_is_about(tmp_path):
    recipe = recipe_of(tmp_path, "first_run", "momentum")
    runs.simulate(recipe, 2, tmp_path / "run")
    path = checkpoint.path_of(tmp_path / "run" / "checkpoints", 20, 0, 1)
    with (
        safe_open(path, framework="pt") as file,
        safe_open(tmp_path / "run" / "parameters.safetensors", framework="pt") as end,
    ):
        shapes = {name: end.get_slice(name).get_shape() for name in end.keys()}  # noqa: SIM118 - no mapping
        assert len(shapes) >= 2
        for rank in (0, 1):
            for kind in ("residual", "momentum"):
                for name, shape in shapes.items():
                    saved = [each for each in file.keys() if each.endswith(f"{kind}.model.{name}")]  # noqa: SIM118
                    assert f"own/{rank}/" in " ".join(saved)
                    assert all(file.get_slice(each).get_shape() == shape for each in saved)


@pytest.mark.parametrize("other", [None, [TOP_K], REMEMBERING["momentum"]])
def test_a_run_is_not_resumed_with_another_codec(other, monkeypatch, capsys, tmp_path):
    recipe = recipe_of(tmp_path, "first_run", "plain")
    run = tmp_path / "run"
    with pytest.raises(KeyboardInterrupt):
        runs.simulate(recipe, 2, run, progress=stop_at(9))
    changed = recipe_of(tmp_path, "first_run", "plain", codec=other)
    (run / "recipe.toml").write_text(changed.to_toml())
    with pytest.raises(QuorateError, match=r"it is of other codecs, which remember `exchange.*\nhint: leave"):
        runs.resume(run)
    assert call(monkeypatch, "resume", run) == 1
    assert "Traceback" not in capsys.readouterr().err
