"""The table of attacks: what is run, what is left out, and that an interrupted table goes on."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
from typer.testing import CliRunner

from quorate import attack_table, parts
from quorate.cli import app
from quorate.errors import RecipeError
from quorate.recipe import parse
from quorate.report import attacks as drawing

RECIPE = """
workers = 6
[task]
name = "digits"
[program]
name = "synchronous_sgd"
steps = 3
batch = 5
[optimizer]
name = "sgd"
lr = 0.1
[aggregator]
name = "trimmed_mean"
f = 2
[[pre_aggregator]]
name = "norm_clipping"
radius = 1.0
"""


def recipe(text=RECIPE):
    return parse(text, "tried", Path())


def test_every_attack_meets_every_defence_that_may_claim_as_much():
    cells, left_out = attack_table.plan(recipe())
    defences = list(dict.fromkeys(cell.defence for cell in cells))
    assert defences[:2] == ["norm_clipping + trimmed_mean", "mean"]
    robust = {name for name in parts.names("aggregator") if hasattr(parts.find("aggregator", name), "most")}
    assert {*defences[2:], *left_out} == robust
    assert {cell.partition for cell in cells} == {"iid", "dirichlet 0.3"}
    assert {cell.attack for cell in cells} == {"no attack", *parts.names("attack")}
    assert len(cells) == 2 * (1 + len(parts.names("attack"))) * len(defences)
    assert all(cell.recipe.hostile.f == 2 for cell in cells if cell.attack != "no attack")
    assert len({cell.key for cell in cells}) == len(cells)
    own = next(cell.recipe for cell in cells if cell.attack == "alie")
    assert [each["name"] for each in own.tables["pre_aggregator"]] == ["norm_clipping"]


def test_who_claims_nothing_is_told_what_to_say():
    with pytest.raises(RecipeError, match="claims to withstand nobody"):
        attack_table.plan(recipe(RECIPE.split("[aggregator]")[0]))


def test_a_table_that_was_interrupted_goes_on(tmp_path):
    cells, _ = attack_table.plan(recipe(), ["sign_flip", "not_finite"], ["median"], ["iid"])
    assert len(cells) == 9
    first = attack_table.run(cells[:4], tmp_path, None, 1, lambda *_: None)
    lines = (tmp_path / "cells.jsonl").read_text().splitlines()
    assert len(lines) == 4
    (tmp_path / "cells.jsonl").write_text("\n".join(lines) + "\n" + lines[0][:20])  # killed in the middle of a line
    whole = attack_table.run(cells, tmp_path, None, 2, lambda *_: None)["iid"]
    assert whole["no attack"]["mean"] == first["iid"]["no attack"]["mean"]
    assert "stopped" in whole["not_finite"]["mean"]
    assert drawing.value_of(whole["not_finite"]["median"]) > 0
    kept = [json.loads(line)["key"] for line in (tmp_path / "cells.jsonl").read_text().splitlines()]
    assert sorted(kept) == sorted(cell.key for cell in cells)


def test_the_command_prints_and_draws(tmp_path):
    path = tmp_path / "tried.toml"
    path.write_text(RECIPE)
    words = ["attack", str(path), "--attack", "sign_flip", "--defence", "median", "--partition", "iid"]
    done = CliRunner().invoke(app, [*words, "--out", str(tmp_path / "out"), "--processes", "1"])
    assert done.exit_code == 0, done.output
    assert "sign_flip" in done.output
    assert "worst of all" in done.output
    page = (tmp_path / "out" / "attacks.html").read_text()
    assert "2 of 6 workers lie" in page


def test_the_worst_attack_is_found_and_a_stopped_run_is_the_worst():
    rows = {
        "no attack": {"a": {"accuracy": 0.9}},
        "x": {"a": {"accuracy": 0.5}, "b": {"failed": "why"}},
        "y": {"a": {"accuracy": 0.0, "stopped": "nan"}, "b": {"accuracy": 0.7}},
    }
    assert drawing.worst(rows, "a", "no attack") == ("y", 0.0)
    assert drawing.worst(rows, "b", "no attack") == ("y", 0.7)
    assert drawing.worst(rows, "c", "no attack") is None
