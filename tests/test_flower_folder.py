from __future__ import annotations

import ast
import tomllib

import pytest

from quorate.errors import RunError
from quorate.flower_folder import APP, write_app
from quorate.recipe import load
from tests.commands import RECIPES, call, refusal

FED_AVG = RECIPES / "federated" / "fed_avg.toml"


def test_the_command_writes_an_app_of_the_same_recipe(monkeypatch, capsys, tmp_path):
    app = tmp_path / "app"
    assert call(monkeypatch, "flower", "init", app, FED_AVG, "--out", tmp_path / "out") == 0
    assert f"flwr run {app} CONNECTION" in capsys.readouterr().out
    project = tomllib.loads((app / "pyproject.toml").read_text())["tool"]["flwr"]["app"]
    assert project["config"]["out"] == str(tmp_path / "out")
    assigned = {
        node.targets[0].id
        for node in ast.parse((app / APP / "__init__.py").read_text()).body
        if isinstance(node, ast.Assign)
    }
    assert {each.partition(":")[2] for each in project["components"].values()} <= assigned
    assert load(app / APP / "recipe.toml").tables == load(FED_AVG).tables
    assert "FLWR_TELEMETRY_ENABLED=0" in (app / "flower.env").read_text().splitlines()


def test_folders_that_hold_something_and_programs_of_peers_are_refused(monkeypatch, capsys, tmp_path):
    (tmp_path / "kept").write_text("")
    assert "is not empty" in refusal(monkeypatch, capsys, "flower", "init", tmp_path, FED_AVG)
    said = refusal(monkeypatch, capsys, "flower", "init", tmp_path / "app", RECIPES / "gossip.toml")
    assert "`gossip` is no program of a federation's server" in said
    assert not (tmp_path / "app").exists()


@pytest.mark.parametrize("name", ["../mine.py", "missing.py"])
def test_files_that_flower_would_not_bring_are_refused(name, tmp_path):
    beside = tmp_path / "recipes"
    beside.mkdir()
    (tmp_path / "mine.py").write_text("from quorate.tasks.digits import digits as own\n")
    chosen = beside / "own.toml"
    chosen.write_text(FED_AVG.read_text().replace('name = "digits"', 'name = "../mine.py:own"'))
    recipe = load(chosen)
    recipe.tables["task"]["name"] = f"{name}:own"
    with pytest.raises(RunError, match="which is no file below"):
        write_app(tmp_path / "app", recipe, tmp_path / "out")
