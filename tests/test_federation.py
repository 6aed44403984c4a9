from __future__ import annotations

import json

import pytest
from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

from quorate import folder
from quorate import run as runs
from quorate.errors import RecipeError
from quorate.federated import comparison
from quorate.federated.alone import pooled
from quorate.recipe import load
from tests.commands import call, metrics, result
from tests.federated_runs import write_federated


def simulated(where, recipe):
    return runs.simulate(load(recipe), load(recipe).workers, where)


def test_digits_are_learned_better_together_than_alone(tmp_path):
    simulated(tmp_path / "run", write_federated(tmp_path, {"program": {"rounds": 30}}))
    facts = folder.read(tmp_path / "run")
    found = facts["comparison"]
    assert facts["federated"] is True
    assert found["federated"]["mean"] > found["alone"]["mean"] + 0.02
    assert found["pooled"]["mean"] > found["alone"]["mean"] + 0.02
    assert (found["federated"]["clients"], found["alone"]["clients"], found["pooled"]["clients"]) == (12, 4, 12)
    last = metrics(tmp_path / "run")[-1]
    assert last["alone_mean"] == found["alone"]["mean"]
    assert last["client_norm"] > last["step_norm"] > 0
    assert not (tmp_path / "run" / "comparison").exists()
    events = EventAccumulator(str(tmp_path / "run" / "tensorboard"))
    events.Reload()
    scalars = events.Tags()["scalars"]
    assert {"accuracy", "client_norm", "clients_worst_decile", "alone_mean", "pooled_mean"} <= set(scalars)


@pytest.mark.parametrize("piece", [1, 7])
def test_a_run_that_is_killed_while_it_compares_is_resumed(tmp_path, piece, monkeypatch):
    recipe = write_federated(tmp_path)
    simulated(tmp_path / "whole", recipe)

    def killed(local, rate, parameters, samples, rounds, train, first, keep):
        def noting(number, held):
            keep(number, held)
            if number == piece:
                raise KeyboardInterrupt

        return pooled(local, rate, parameters, samples, rounds, train, first, noting)

    with monkeypatch.context() as patched:
        patched.setattr(comparison, "pooled", killed)
        with pytest.raises(KeyboardInterrupt):
            simulated(tmp_path / "killed", recipe)
    assert folder.read(tmp_path / "killed")["status"] == "failed"
    resumed = runs.resume(tmp_path / "killed")
    one, other = (folder.read(tmp_path / name) for name in ("whole", "killed"))
    assert resumed["parameters_sha256"] == one["result"]["parameters_sha256"]
    assert other["comparison"] == one["comparison"]
    for name in ("clients.json", "rounds.jsonl"):
        assert (tmp_path / "killed" / name).read_text() == (tmp_path / "whole" / name).read_text()
    assert metrics(tmp_path / "killed") == metrics(tmp_path / "whole")


def test_clients_are_measured_during_the_run_if_asked(tmp_path):
    recipe = write_federated(tmp_path, {"comparison": {"during": True, "alone": False, "pooled": False}})
    simulated(tmp_path / "run", recipe)
    measured = [line["clients_worst_decile"] for line in metrics(tmp_path / "run") if "clients_worst_decile" in line]
    assert len(measured) == 3
    assert measured[-1] == folder.read(tmp_path / "run")["comparison"]["federated"]["worst_decile"]


def test_with_no_clients_nothing_is_compared(tmp_path):
    simulated(tmp_path / "run", write_federated(tmp_path, {"comparison": {"clients": 0}}))
    assert "comparison" not in folder.read(tmp_path / "run")
    assert not (tmp_path / "run" / "clients.json").exists()


def test_held_out_samples_reach_nobody(tmp_path):
    recipe = write_federated(tmp_path, {"program": {"held_out": 0.25}})
    simulated(tmp_path / "run", recipe)
    known = json.loads((tmp_path / "run" / "clients.json").read_text())
    made = load(recipe).training(12, None)
    assert known["samples"] == [len(shard) - round(0.25 * len(shard)) for shard in made.shards]
    assert folder.read(tmp_path / "run")["comparison"]["tested_on"] == "samples that it holds out"


@pytest.mark.parametrize("share", [-0.1, 1.0])
def test_a_share_that_can_not_be_held_out_is_refused(tmp_path, share):
    with pytest.raises(RecipeError, match="held_out"):
        load(write_federated(tmp_path, {"program": {"held_out": share}}))


def test_the_command_says_what_came_of_it(tmp_path, monkeypatch, capsys):
    recipe = write_federated(tmp_path)
    assert call(monkeypatch, "run", recipe, "--out", tmp_path / "run", "--json") == 0
    out = capsys.readouterr().out
    assert "after 12 rounds of 12 clients" in out
    assert "accuracy of 12 clients" in out
    assert "federated 0." in out
    assert "the federation serves" in out
    assert result(out)["comparison"] == folder.read(tmp_path / "run")["comparison"]


def test_other_programs_are_not_compared(tmp_path):
    path = write_federated(tmp_path)
    text = path.read_text().replace('"federated"', '"synchronous_sgd"')
    for line in ("rounds = 12\n", "cohort = 4\n", "epochs = 2\n"):
        text = text.replace(line, "")
    path.write_text(text.replace("[program]", "[program]\nsteps = 3"))
    with pytest.raises(RecipeError, match=r"no use for \[comparison\]"):
        load(path)
    path.write_text(path.read_text().replace("[comparison]\nclients = 4\n", ""))
    assert "comparison" not in load(path).to_toml()
    simulated(tmp_path / "run", path)
    assert "comparison" not in folder.read(tmp_path / "run")
