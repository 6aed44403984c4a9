from __future__ import annotations

import tomllib
from pathlib import Path
from typing import Any

import pytest
import tomli_w
import torch
from safetensors.torch import load_file

from quorate import run as runs
from quorate.errors import RecipeError
from quorate.federated.record import read_rounds
from quorate.recipe import load, parse
from tests.commands import RECIPES, metrics, stop_at

FED = RECIPES / "federated"


def changed(name: str, folder: Path, **changes: Any) -> Path:
    whole = tomllib.loads((FED / f"{name}.toml").read_text())
    whole["program"] |= {"rounds": 9}
    whole["record"] = {"metrics": 1, "evaluate": 5, "checkpoint": 2}
    path = folder / f"{name}.toml"
    path.write_text(tomli_w.dumps(whole | changes))
    return path


def test_only_federations_have_availability(tmp_path):
    text = (RECIPES / "first_run.toml").read_text() + '\n[availability]\nname = "always"\n'
    with pytest.raises(RecipeError, match="clients of a federation"):
        parse(text, "first_run", tmp_path)


def test_a_recipe_with_a_trace_gives_itself_again(tmp_path):
    (tmp_path / "phones.csv").write_text("0,0,10\n1,0,20\n")
    path = changed("fed_buff", tmp_path, availability={"name": "trace", "file": "phones.csv", "repeat": "30 s"})
    recipe = load(path)
    again = parse(recipe.to_toml(), recipe.name, recipe.folder)
    assert again.tables == recipe.tables
    assert [again.availability(client, None).present(15.0) for client in range(3)] == [False, True, False]


def test_a_trace_that_is_not_there_is_refused_before_the_run(tmp_path):
    with pytest.raises(Exception, match=r"none\.csv"):
        load(changed("fed_buff", tmp_path, availability={"name": "trace", "file": "none.csv"}))


@pytest.mark.parametrize("name", ["fed_buff", "stragglers"])
def test_a_run_that_was_broken_off_goes_on_to_the_same_end(name, tmp_path):
    recipe = load(changed(name, tmp_path))
    whole, part = tmp_path / "whole", tmp_path / "part"
    runs.simulate(recipe, 100, whole)
    with pytest.raises(KeyboardInterrupt):
        runs.simulate(recipe, 100, part, progress=stop_at(5))
    runs.resume(part)
    one, other = (load_file(each / "parameters.safetensors") for each in (whole, part))
    assert all(torch.equal(one[key], other[key]) for key in one)
    assert metrics(part) == metrics(whole)
    assert read_rounds(part) == read_rounds(whole)
    assert [line["round"] for line in read_rounds(whole)] == list(range(1, 10))
