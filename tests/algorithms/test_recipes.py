"""The recipes of federated algorithms run, and each algorithm has one."""

from __future__ import annotations

import json
import re
import tomllib
from pathlib import Path

import pytest

from quorate import recipe, run
from tests.algorithms.laws import NAMES

FOLDER = Path(__file__).parents[2] / "recipes" / "federated"
TABLES = {path.stem: tomllib.loads(path.read_text()) for path in sorted(FOLDER.glob("*.toml"))}
SMALL = [
    name
    for name, table in TABLES.items()
    if (table["task"]["name"], table["program"]["name"]) == ("digits", "federated")
]


def test_each_algorithm_has_a_recipe_of_its_name():
    assert {name: TABLES[name]["algorithm"]["name"] for name in NAMES} == {name: name for name in NAMES}


@pytest.mark.parametrize("name", SMALL)
def test_it_runs_on_the_simulator(name, tmp_path):
    text = re.sub(r"(?m)^rounds = \d+$", "rounds = 3", (FOLDER / f"{name}.toml").read_text())
    text += "\n[comparison]\nalone = false\npooled = false\n"
    read = recipe.parse(text, name, FOLDER)
    result = run.simulate(read, read.workers, tmp_path / "run")
    assert result["steps"] == 3
    assert result["loss"] < 2.5
    assert (result["bytes"] == 0) == (name == "local_only")
    assert json.loads((tmp_path / "run" / "run.json").read_text())["status"] == "finished"


def test_layers_that_the_model_lacks_are_refused_before_the_first_round(tmp_path):
    text = (FOLDER / "fed_per.toml").read_text().replace('["2"]', '["2.weigth"]')
    read = recipe.parse(text, "fed_per", FOLDER)
    with pytest.raises(recipe.RecipeError, match=r"the model has no `2.weigth`\nhint: did you mean `2.weight`"):
        run.simulate(read, read.workers, tmp_path / "run")


@pytest.mark.parametrize("name", ["scaffold", "fed_sgd", "fed_nova"])
def test_an_optimizer_that_the_algorithm_makes_no_sense_with_is_refused_when_the_recipe_is_read(name):
    text = (FOLDER / f"{name}.toml").read_text().replace('name = "sgd"', 'name = "adam"')
    with pytest.raises(recipe.RecipeError, match=r'hint: \[optimizer\]\nname = "sgd"'):
        recipe.parse(text, name, FOLDER).plan(100)
