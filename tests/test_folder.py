from __future__ import annotations

import hashlib
import json
import struct
import subprocess
import sys

import pytest
import torch
from safetensors.torch import load_file

import quorate
from quorate import folder
from quorate.errors import QuorateError, RunError
from quorate.flat import Layout
from quorate.recipe import load
from quorate.trace import Trace
from tests.commands import write_recipe


@pytest.fixture
def recipe(tmp_path):
    return load(write_recipe(tmp_path))


def make(where, recipe):
    return folder.create(where, recipe, "simulator", 2, None, {"parameters": 9})


def test_says_what_a_run_is(recipe, tmp_path):
    where = make(tmp_path / "a" / "b", recipe)
    facts = folder.read(where)
    assert (facts["quorate"], facts["torch"], facts["seed"]) == (quorate.__version__, torch.__version__, 7)
    assert (facts["status"], facts["result"], facts["parameters"], facts["workers"]) == ("running", None, 9, 2)
    assert folder.recipe_of(where) == recipe
    folder.update(where, {"status": "failed"})
    assert folder.read(where) == facts | {"status": "failed"}


def test_runs_without_a_folder_get_one_of_their_own(recipe, monkeypatch, tmp_path):
    monkeypatch.chdir(tmp_path)
    made = {make(None, recipe) for _ in range(3)}
    assert len(made) == 3
    assert all(str(where).startswith("runs/first_run-2") for where in made)


def test_an_empty_folder_may_be_given(recipe, tmp_path):
    (tmp_path / "run").mkdir()
    make(tmp_path / "run", recipe)
    with pytest.raises(RunError) as error:
        make(tmp_path / "run", recipe)
    assert error.value.problem == f"`{tmp_path / 'run'}` already holds a run"


@pytest.mark.parametrize("text", ["", "{", "[]", "5", "{}", '{"status": "finished"}'])
def test_a_run_that_does_not_say_what_it_is_is_refused(text, tmp_path):
    (tmp_path / "run.json").write_text(text)
    with pytest.raises(RunError) as error:
        folder.read(tmp_path)
    assert error.value.problem.startswith(f"`{tmp_path / 'run.json'}` ")


def test_a_recipe_that_was_changed_into_nonsense_is_refused(recipe, tmp_path):
    where = make(tmp_path / "run", recipe)
    (where / "recipe.toml").write_text("steps = ")
    with pytest.raises(QuorateError, match="recipe `first_run` is no valid TOML"):
        folder.recipe_of(where)
    (where / "recipe.toml").write_bytes(b"\xff")
    with pytest.raises(RunError, match=r"recipe\.toml` can't be read"):
        folder.recipe_of(where)


LOCKS = """
import sys, time
from pathlib import Path
from quorate.folder import locked

with locked(Path(sys.argv[1])):
    print("held", flush=True)
    time.sleep(60)
"""


@pytest.mark.processes
def test_a_lock_ends_with_the_process_that_holds_it(tmp_path):
    with subprocess.Popen([sys.executable, "-c", LOCKS, str(tmp_path)], stdout=subprocess.PIPE) as holder:
        assert holder.stdout.readline() == b"held\n"
        with pytest.raises(RunError) as error, folder.locked(tmp_path):
            pass
        assert str(error.value) == f"`{tmp_path}` is being written by a run that still goes on"
        holder.kill()
        holder.wait()
    with folder.locked(tmp_path):
        pass


def test_the_digest_is_of_the_little_endian_bytes_in_order():
    x = torch.tensor([1.5, -2.0, 3.25])
    expected = hashlib.sha256(struct.pack("<3f", *x.tolist())).hexdigest()
    assert folder.sha256(x) == expected
    assert folder.sha256(torch.stack([x, x], dim=1)[:, 0]) == expected
    assert folder.sha256(x.double()) != expected


def test_a_finished_run_holds_its_result(recipe, tmp_path):
    where = make(tmp_path / "run", recipe)
    module = torch.nn.Module()
    module.model = torch.nn.Linear(2, 3)
    layout = Layout.of(module)
    flat = layout.flatten(module)
    trace = Trace(2)
    trace.sent_bytes, trace.seconds = [5, 5], 2.0
    result = folder.finish(where, flat, layout, {"test_loss": 0.25}, 20, trace.summary(), 3.0)
    assert result == {
        "accuracy": None,
        "loss": 0.25,
        "steps": 20,
        "clock_seconds": 2.0,
        "wall_seconds": 3.0,
        "bytes": 10,
        "parameters_sha256": folder.sha256(flat),
        "run": str(where),
    }
    assert folder.read(where)["result"] == json.loads(json.dumps(result))
    again = torch.nn.Linear(2, 3)
    again.load_state_dict(load_file(where / "parameters.safetensors"), strict=True)
    assert torch.equal(again.weight, module.model.weight)
    assert (where / "report.html").is_file()


@pytest.mark.parametrize(
    ("error", "says"),
    [
        (RunError("rank 1, step 3: a bad sample", "look"), "rank 1, step 3: a bad sample"),
        (KeyError("x"), "KeyError: 'x'"),
    ],
)
def test_a_failed_run_says_why(error, says, recipe, tmp_path):
    where = make(tmp_path / "run", recipe)
    folder.failed(where, error)
    assert (folder.read(where)["status"], folder.read(where)["error"]) == ("failed", says)
