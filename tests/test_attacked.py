"""Attacks in recipes: who lies, poisoned data, and the same bits on the simulator and on processes."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
import torch

from quorate.errors import QuorateError, RecipeError, RunError
from quorate.recipe import parse
from quorate.run import processes, simulate

ROBUST = """
workers = 5
[task]
name = "digits"
[program]
name = "synchronous_sgd"
steps = 12
batch = 10
[optimizer]
name = "sgd"
lr = 0.1
[aggregator]
name = "trimmed_mean"
f = 1
[record]
metrics = 1
evaluate = 0
checkpoint = 5
"""


def recipe(more="", text=ROBUST):
    return parse(text + more, "robust", Path())


def attacked(name, hostile="", text=ROBUST):
    return recipe(f'[attack]\nname = "{name}"\n[hostile]\n{hostile}\n', text)


@pytest.mark.parametrize(
    ("more", "says"),
    [
        ("[hostile]\nf = 1\n", r"\[hostile\] says who carries out an attack, but there is none"),
        ('[attack]\nname = "sign_flop"\n', "unknown attack `sign_flop`"),
        ('[attack]\nname = "sign_flip"\n[hostile]\nranks = [9]\n', "there is no worker 9"),
        ('[attack]\nname = "sign_flip"\n[hostile]\nf = 5\n', "of 5 workers, 5 can't be hostile"),
        ('[attack]\nname = "sign_flip"\n[hostile]\nf = 2\nranks = [1]\n', "names 1 workers, but f = 2"),
        ('[attack]\nname = "sign_flip"\n[hostile]\nredrawn = true\nranks = [1]\n', "would redraw them"),
    ],
)
def test_what_can_not_be_is_refused(more, says):
    with pytest.raises(RecipeError, match=says):
        recipe(more)


def test_an_aggregator_may_not_claim_more_than_its_theorem():
    with pytest.raises(RecipeError, match="withstands at most 2 arbitrary updates of 5, not f = 3"):
        recipe(text=ROBUST.replace("f = 1", "f = 3"))


def test_as_many_lie_as_the_aggregator_is_told_to_withstand_if_nothing_else_is_said():
    assert attacked("sign_flip").hostility(5).at(0, 5) == (4,)
    assert attacked("sign_flip", "ranks = [2, 0]").hostility(5).at(0, 5) == (2, 0)
    assert recipe().hostility(5) is None


def test_a_recipe_with_an_attack_is_written_and_read_again():
    first = attacked("sign_flip", "start = 3")
    assert parse(first.to_toml(), "robust", Path()).to_toml() == first.to_toml()


def test_data_attacks_change_the_data_of_those_that_lie_only():
    honest, poisoned = recipe().training(5, None), attacked("label_flip").training(5, None)
    for rank in range(5):
        a, b = (each.train.y[each.shards[rank]] for each in (honest, poisoned))
        assert torch.equal(a, b) == (rank != 4)
        assert torch.equal(honest.train.x[honest.shards[rank]], poisoned.train.x[poisoned.shards[rank]])
    assert poisoned.weights == honest.weights
    with pytest.raises(RecipeError, match="must stay the same workers"):
        attacked("label_flip", "redrawn = true").training(5, None)


def test_nan_of_one_worker_spoils_a_mean_and_not_a_robust_rule(tmp_path):
    plain = ROBUST.replace('name = "trimmed_mean"\nf = 1', 'name = "mean"')
    with pytest.raises(RunError, match="step 2: the loss is not finite"):
        simulate(attacked("not_finite", "f = 1", plain), 5, tmp_path / "mean")
    assert simulate(attacked("not_finite"), 5, tmp_path / "robust")["accuracy"] > 0.3
    scores = [json.loads(line)["scores"] for line in (tmp_path / "robust" / "suspects.jsonl").read_text().splitlines()]
    assert len(scores) == 12
    assert all(each["4"] is None and None not in [each[str(rank)] for rank in range(4)] for each in scores)
    assert "Suspects" in (tmp_path / "robust" / "report.html").read_text()


@pytest.mark.parametrize("knows", ["own", "all"])
def test_processes_that_lie_come_to_the_simulators_bits(tmp_path, knows):
    chosen = attacked("sign_flip", f'knows = "{knows}"')
    simulated = simulate(chosen, 5, tmp_path / "simulated")
    real = processes(chosen, 5, tmp_path / "real")
    assert real["parameters_sha256"] == simulated["parameters_sha256"]
    honest = simulate(recipe(), 5, tmp_path / "honest")
    assert honest["parameters_sha256"] != simulated["parameters_sha256"]
    told = [(tmp_path / each / "suspects.jsonl").read_text() for each in ("simulated", "real")]
    assert told[0] == told[1]
    assert sorted(path.name for path in (tmp_path / "real").glob("suspects*")) == ["suspects.jsonl"]


def test_history_outlasts_a_checkpoint(tmp_path):
    from quorate.run import resume

    clipped = ROBUST.replace('name = "trimmed_mean"\nf = 1', 'name = "centered_clipping"\nf = 1\nradius = 0.1')
    whole = simulate(attacked("alie", text=clipped), 5, tmp_path / "whole")
    with pytest.raises(QuorateError, match="stop here"):
        simulate(attacked("alie", text=clipped), 5, tmp_path / "cut", progress=_stops_at(7))
    assert resume(tmp_path / "cut")["parameters_sha256"] == whole["parameters_sha256"]


def _stops_at(last):
    def told(step, measures):
        if step >= last:
            raise QuorateError("stop here")

    return told
