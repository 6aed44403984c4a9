from __future__ import annotations

import json

import numpy as np
import pytest
import torch
from safetensors.torch import load_file, save_file

from quorate import final_model, folder
from quorate import run as runs
from quorate.errors import QuorateError
from quorate.recipe import load
from quorate.tasks.digits import digits
from tests.commands import call, refusal, write_recipe
from tests.federated_runs import write_federated


@pytest.fixture(scope="module")
def run(tmp_path_factory):
    """A federation of digits whose clients have models of their own."""
    where = tmp_path_factory.mktemp("ditto")
    changes = {"algorithm": {"name": "ditto", "pull": 0.1}, "comparison": {"alone": False, "pooled": False}}
    runs.simulate(load(write_federated(where, changes)), 12, where / "run")
    return where / "run"


def lines(capsys):
    return capsys.readouterr().out.splitlines()


def test_the_model_is_the_one_that_was_measured(run, monkeypatch, capsys):
    assert call(monkeypatch, "predict", run) == 0
    told = capsys.readouterr()
    predicted = torch.tensor([int(line) for line in told.out.splitlines()])
    measured = folder.read(run)["result"]
    assert float((predicted == digits().test.y).double().mean()) == pytest.approx(measured["accuracy"])
    assert f"accuracy {measured['accuracy']:.4f}, on 359 samples" in told.err


def test_clients_use_models_of_their_own(run, monkeypatch, capsys):
    found = []
    for whose in ([], ["--client", 0], ["--client", 1]):
        assert call(monkeypatch, "predict", run, *whose) == 0
        found.append(lines(capsys))
    assert len({tuple(each) for each in found}) == 3


def test_personal_models_serve_their_clients_as_it_was_measured(run):
    known = json.loads((run / "clients.json").read_text())
    final = final_model.load(run, client=3)
    training = load_training(run)
    from quorate.federated.evaluation import Measuring

    if known["federated"][3] is not None:
        own = Measuring(training).own(3, training.shards[3])
        flat = torch.cat([each.detach().reshape(-1) for each in final.module.parameters()])
        assert Measuring(training).values(flat, [own]) == [pytest.approx(known["federated"][3])]


def load_training(run):
    return folder.recipe_of(run).training(12, None)


@pytest.mark.parametrize("suffix", ["npy", "npz", "safetensors"])
def test_inputs_come_from_files(run, tmp_path, suffix, monkeypatch, capsys):
    test, path = digits().test, tmp_path / f"inputs.{suffix}"
    if suffix == "npy":
        np.save(path, test.x[:7].numpy())
    elif suffix == "npz":
        np.savez(path, x=test.x[:7].numpy(), y=test.y[:7].numpy())
    else:
        save_file({"x": test.x[:7].contiguous(), "y": test.y[:7].contiguous()}, path)
    assert call(monkeypatch, "predict", run, path, "--json", "--out", tmp_path / "told.npz") == 0
    told = json.loads(capsys.readouterr().out)
    whole = final_model.outputs(final_model.load(run), test.x)[:7]
    assert told["prediction"] == whole.argmax(1).tolist()
    assert (set(told["measures"]) == {"loss", "accuracy"}) == (suffix != "npy")
    with np.load(tmp_path / "told.npz", allow_pickle=False) as held:
        assert np.allclose(held["output"], whole.numpy(), atol=1e-6)


@pytest.mark.parametrize("whose", [[], ["--client", "2"]])
def test_an_exported_program_predicts_the_same(run, tmp_path, whose, monkeypatch, capsys):
    out = tmp_path / "model.pt2"
    assert call(monkeypatch, "export", run, "--format", "torch-export", "--out", out, *whose) == 0
    program = torch.export.load(out).module()
    final = final_model.load(run, client=int(whose[1]) if whose else None)
    for n in (1, 2, 33):
        x = final.task.test.x[:n]
        assert torch.allclose(program(x), final_model.outputs(final, x), atol=1e-6)


def test_exported_tensors_fit_the_module(run, tmp_path, monkeypatch, capsys):
    assert call(monkeypatch, "export", run, "--out", tmp_path / "m.safetensors") == 0
    module = digits(hidden=16).model()
    module.load_state_dict(load_file(tmp_path / "m.safetensors"))
    final = final_model.load(run)
    assert torch.equal(module(final.task.test.x), final_model.outputs(final, final.task.test.x))


def test_runs_of_workers_have_a_model_too(tmp_path, monkeypatch, capsys):
    assert call(monkeypatch, "run", write_recipe(tmp_path), "--out", tmp_path / "run") == 0
    lines(capsys)
    assert call(monkeypatch, "predict", tmp_path / "run") == 0
    assert len(lines(capsys)) == 359
    said = refusal(monkeypatch, capsys, "predict", tmp_path / "run", "--client", 0)
    assert "has no clients" in said


def test_mistakes_are_explained(run, tmp_path, monkeypatch, capsys):
    def said(*words):
        return refusal(monkeypatch, capsys, "predict", run, *words)

    np.save(tmp_path / "wide.npy", np.zeros((3, 65), dtype=np.float32))
    np.save(tmp_path / "whole.npy", np.zeros((3, 64), dtype=np.int64))
    np.save(tmp_path / "none.npy", np.zeros((0, 64), dtype=np.float32))
    np.savez(tmp_path / "odd.npz", x=np.zeros((3, 64), dtype=np.float32), y=np.zeros(2))
    np.savez(tmp_path / "empty.npz", z=np.zeros(3))
    np.save(tmp_path / "objects.npy", np.array([{}]), allow_pickle=True)
    (tmp_path / "cut.npz").write_bytes(b"PK\x03\x04broken")
    (tmp_path / "cut.safetensors").write_bytes(b"\xff" * 40)
    (tmp_path / "text.csv").write_text("1,2\n")
    assert "shape (3, 65), but this model takes torch.float32 of shape (n, 64)" in said(tmp_path / "wide.npy")
    assert "torch.int64" in said(tmp_path / "whole.npy")
    assert "there are no inputs" in said(tmp_path / "none.npy")
    assert "one entry per sample" in said(tmp_path / "odd.npz")
    assert "holds no `x`" in said(tmp_path / "empty.npz")
    assert "can't be read" in said(tmp_path / "objects.npy")
    assert "can't be read" in said(tmp_path / "cut.npz")
    assert "can't be read" in said(tmp_path / "cut.safetensors")
    assert "numpy.save" in said(tmp_path / "text.csv")
    assert "there is no file" in said(tmp_path / "nowhere.npy")
    assert "clients 0 to 11, and no client 12" in said("--client", 12)
    assert "--out " in said("--out", tmp_path / "told.csv")
    assert "can't be written" in said("--out", tmp_path / "nowhere" / "told.npz")


def test_targets_that_can_not_be_are_refused(run, tmp_path, monkeypatch, capsys):
    np.savez(tmp_path / "odd.npz", x=np.zeros((3, 64), dtype=np.float32), y=np.array([1, 2, 77]))
    assert "are not like the task's" in refusal(monkeypatch, capsys, "predict", run, tmp_path / "odd.npz")


def test_a_run_that_has_not_ended_has_no_model(tmp_path, monkeypatch, capsys):
    recipe = write_federated(tmp_path)

    def stop(step, measures):
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        runs.simulate(load(recipe), 12, tmp_path / "run", progress=stop)
    assert f"quorate resume {tmp_path / 'run'}" in refusal(monkeypatch, capsys, "export", tmp_path / "run")


@pytest.mark.parametrize("change", ["missing", "shape", "extra", "cut"])
def test_parameters_of_another_model_are_refused(tmp_path, change):
    recipe = write_federated(tmp_path, {"comparison": {"alone": False, "pooled": False}, "program": {"rounds": 1}})
    runs.simulate(load(recipe), 12, tmp_path / "run")
    path = tmp_path / "run" / "parameters.safetensors"
    held = load_file(path)
    if change == "missing":
        del held["0.bias"]
    if change == "shape":
        held["0.bias"] = torch.zeros(3)
    if change == "extra":
        held["9.bias"] = torch.zeros(3)
    save_file(held, path)
    if change == "cut":
        path.write_bytes(path.read_bytes()[:-10])
    with pytest.raises(QuorateError, match="can't be read" if change == "cut" else "model"):
        final_model.load(tmp_path / "run")
