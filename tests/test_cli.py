from __future__ import annotations

import json
import os
import warnings
from functools import partial

import pytest
import torch
from safetensors.torch import load_file

from quorate import folder
from quorate.recipe import load
from quorate.tasks.digits import digits
from tests.commands import call, metrics, refusal, result, stop_at, write_recipe


@pytest.fixture
def refused(monkeypatch, capsys):
    """Run a command that must be refused; return what it wrote to standard error."""
    return partial(refusal, monkeypatch, capsys)


def test_a_folder_that_cannot_be_written_is_refused(refused, tmp_path):
    recipe, file = write_recipe(tmp_path), tmp_path / "file"
    file.write_text("")
    for out, reason in ((file / "run", "Not a directory"), (file, "File exists")):
        err = refused("run", recipe, "--simulate", 2, "--out", out)
        assert err == f"can't write to `{out}`: {reason}\nhint: name another folder with --out"


def test_a_run_is_never_written_over(refused, monkeypatch, tmp_path):
    recipe, out = write_recipe(tmp_path), tmp_path / "run"
    assert call(monkeypatch, "run", recipe, "--simulate", 2, "--out", out) == 0
    before = (out / "run.json").read_bytes()
    assert refused("run", recipe, "--simulate", 2, "--out", out) == (
        f"`{out}` already holds a run\nhint: name another folder with --out, or `quorate resume {out}`"
    )
    assert (out / "run.json").read_bytes() == before
    assert refused("run", recipe, "--out", tmp_path) == (
        f"`{tmp_path}` is not empty, and holds no run\nhint: name another folder with --out"
    )


def test_resume_refuses_what_is_no_run(refused, tmp_path):
    assert refused("resume", tmp_path) == f"`{tmp_path}` is not a run folder: it has no run.json"
    assert refused("resume", tmp_path / "none") == f"`{tmp_path / 'none'}` is not a run folder: it has no run.json"
    (tmp_path / "run.json").write_text('{"status": "running"}')
    assert refused("resume", tmp_path) == f"`{tmp_path / 'run.json'}` does not describe a run"
    (tmp_path / "run.json").write_text('{"status":')
    assert refused("resume", tmp_path).startswith(f"`{tmp_path / 'run.json'}` can't be read: Expecting value")


@pytest.fixture
def interrupted(monkeypatch, capsys, tmp_path):
    """A simulated run that was interrupted in step 14 of 20."""
    monkeypatch.setattr("quorate.cli_shared.shown", lambda: True)
    monkeypatch.setattr("quorate.cli_shared.Progress", Interrupting)
    out = tmp_path / "run"
    assert call(monkeypatch, "run", write_recipe(tmp_path), "--simulate", 2, "--out", out) == 130
    assert capsys.readouterr().err == "stopped; `quorate resume RUN` goes on from the last checkpoint\n"
    monkeypatch.undo()
    return out


class Interrupting:
    """A progress bar in whose 14th step somebody presses Ctrl-C."""

    def __init__(self, *_, **__):
        self._stop = stop_at(14)

    def __enter__(self):
        return self

    def __exit__(self, *_):
        pass

    def add_task(self, *_, **__):
        return 0

    def update(self, _, completed, **__):
        self._stop(completed, {})


def test_an_interrupted_run_is_resumed(interrupted, monkeypatch, capsys, tmp_path):
    assert folder.read(interrupted)["status"] == "failed"
    assert call(monkeypatch, "resume", interrupted, "--json") == 0
    resumed = result(capsys.readouterr().out)
    assert (
        call(monkeypatch, "run", tmp_path / "first_run.toml", "--simulate", 2, "--out", tmp_path / "b", "--json") == 0
    )
    assert resumed["parameters_sha256"] == result(capsys.readouterr().out)["parameters_sha256"]


def test_a_finished_run_gives_its_result_again(interrupted, monkeypatch, capsys):
    assert call(monkeypatch, "resume", interrupted, "--json") == 0
    first = capsys.readouterr().out
    assert call(monkeypatch, "resume", interrupted, "--json") == 0
    out = capsys.readouterr().out
    assert out.startswith(f"`{interrupted}` is finished already\n")
    assert result(out) == result(first)


def test_a_checkpoint_cut_short_is_named(interrupted, refused, monkeypatch):
    path = interrupted / "checkpoints" / "step-00000012.0-of-1.safetensors"
    os.truncate(path, path.stat().st_size - 100)
    err = refused("resume", interrupted)
    assert err.startswith(f"checkpoint {path} is cut short or damaged (SafetensorError: ")
    assert err.endswith("\nhint: remove this file to go back to the checkpoint before it, then `quorate resume` again")
    path.unlink()
    assert call(monkeypatch, "resume", interrupted) == 0
    assert folder.read(interrupted)["result"]["steps"] == 20


def test_a_run_without_its_recipe_is_refused(interrupted, refused):
    path = interrupted / "recipe.toml"
    path.unlink()
    assert refused("resume", interrupted) == (f"`{path}` can't be read: [Errno 2] No such file or directory: '{path}'")


def test_a_run_that_goes_on_is_not_resumed(interrupted, refused):
    with folder.locked(interrupted):
        assert refused("resume", interrupted) == f"`{interrupted}` is being written by a run that still goes on"


def test_a_finished_run_holds_what_it_should(monkeypatch, capsys, tmp_path):
    out = tmp_path / "run"
    assert call(monkeypatch, "run", write_recipe(tmp_path), "--simulate", 2, "--out", out, "--json") == 0
    told = result(capsys.readouterr().out)
    assert list(told) == [
        *("accuracy", "loss", "steps", "clock_seconds", "wall_seconds", "bytes", "parameters_sha256", "run")
    ]
    lines = metrics(out)
    assert [line["step"] for line in lines] == [5, 10, 15, 20]
    assert [line["step"] for line in lines if "accuracy" in line] == [10, 20]
    assert (lines[-1]["accuracy"], lines[-1]["test_loss"]) == (told["accuracy"], told["loss"])
    assert (lines[-1]["bytes"], lines[-1]["clock_seconds"]) == (told["bytes"], told["clock_seconds"])
    trace = json.loads((out / "trace.json").read_text())
    assert sum(worker["sent_bytes"] for worker in trace["workers"]) == told["bytes"]
    model = digits().model()
    model.load_state_dict(load_file(out / "parameters.safetensors"), strict=True)
    flat = torch.cat([parameter.detach().reshape(-1) for parameter in model.parameters()])
    assert folder.sha256(flat) == told["parameters_sha256"]
    facts = folder.read(out)
    assert (facts["status"], facts["error"], facts["result"]) == ("finished", None, told)
    assert "<html" in (out / "report.html").read_text()
    assert load(out / "recipe.toml").to_toml() == (out / "recipe.toml").read_text()


def test_tensorboard_reads_the_events(monkeypatch, tmp_path):
    out = tmp_path / "run"
    assert call(monkeypatch, "run", write_recipe(tmp_path), "--simulate", 2, "--out", out) == 0
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        loader = pytest.importorskip("tensorboard.backend.event_processing.event_accumulator")
        events = loader.EventAccumulator(str(out / "tensorboard")).Reload()
    assert [event.step for event in events.Scalars("train_loss")] == [5, 10, 15, 20]
    assert [event.step for event in events.Scalars("accuracy")] == [10, 20]
    lines = {line["step"]: line for line in metrics(out)}
    for event in events.Scalars("test_loss"):
        assert event.value == pytest.approx(lines[event.step]["test_loss"])
