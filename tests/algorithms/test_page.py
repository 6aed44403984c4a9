"""What `docs/federated.md` says of the algorithms is so."""

from __future__ import annotations

import re
from pathlib import Path

import pytest

from quorate import parts, recipe, run
from quorate.federated.local import LocalSettings
from quorate.optimizer import Optimizer
from quorate.trees import branch, leaves
from tests.algorithms.laws import NAMES
from tests.algorithms.world import Federation
from tests.tiny import training

PAGE = (Path(__file__).parents[2] / "docs" / "federated.md").read_text()
SECTION = PAGE.split("\n## Algorithms\n")[1].split("\n## ")[0]
ROWS = {
    cells[0].strip("`"): cells
    for cells in (
        [cell.strip() for cell in row.split("|")[1:-1]] for row in SECTION.splitlines() if row.startswith("| `")
    )
}
SHARED = 35 / 53  # of the parameters of `tests.tiny.mlp`
KEPT = {"nothing": 0, "its control (d,)": 53, "its gradient (d,)": 53, "a model (d,)": 53, "its last layers": 18}


def block(language: str, text: str) -> str:
    """The first block of code in a language."""
    return re.findall(rf"```{language}\n(.*?)```", text, re.DOTALL)[0]


def test_every_algorithm_has_its_row():
    assert sorted(ROWS) == NAMES


@pytest.mark.parametrize("name", ROWS)
def test_what_is_kept_what_travels_and_who_counts_are_as_the_table_says(name):
    _, kept, travels, counts, *_ = ROWS[name]
    made = Federation(parts.find("algorithm", name)(), training(size=3, unequal=True), batch="full")
    d = made.parameters.numel()
    down, up = (float(cell.split()[0]) * (SHARED if "s" in cell else 1) for cell in travels.split(","))
    assert made.asked([0])[0].request.bytes == round(down * d)
    assert [answer.bytes for answer in made.round()] == [round(up * d)] * 3
    held = sum(each.numel() for _, each in leaves(branch(made.memories[0], "algorithm")))
    assert held == KEPT[kept]
    two = [{"samples": 3.0, "steps": 1.0, "loss": 0.0}, {"samples": 1.0, "steps": 1.0, "loss": 0.0}]
    a, b = made.algorithm.weights(two)
    if counts != "-":
        assert (a == b) == counts.startswith("alike")


@pytest.mark.parametrize("name", ROWS)
@pytest.mark.parametrize("optimizer", [Optimizer("sgd", {"lr": 0.1, "momentum": 0.9}), Optimizer("adam")])
def test_which_optimizers_are_refused_is_as_the_page_says(name, optimizer):
    refused = name in ("fed_sgd", "scaffold") or (name == "fed_nova" and optimizer.name == "adam")
    algorithm = parts.find("algorithm", name)()
    if refused:
        with pytest.raises(recipe.RecipeError):
            algorithm.check(LocalSettings(optimizer), None)
    else:
        algorithm.check(LocalSettings(optimizer), None)


def test_the_algorithm_of_ones_own_runs(tmp_path):
    section = PAGE.split("\n## An algorithm of one's own\n")[1]
    first, own = block("toml", PAGE), block("toml", section)
    (tmp_path / "halfway.py").write_text(block("python", section))
    text = first.replace('[algorithm]\nname = "fed_avg"\n', own)
    results = []
    for name, changed in (("own", text), ("average", text.replace("own = 0.2", "own = 0.0")), ("plain", first)):
        changed = changed.replace("rounds = 60", "rounds = 12") + "\n[comparison]\nalone = false\npooled = false\n"
        read = recipe.parse(changed, name, tmp_path)
        results.append(run.simulate(read, read.workers, tmp_path / name))
    assert results[0]["parameters_sha256"] != results[1]["parameters_sha256"]
    assert results[1]["parameters_sha256"] == results[2]["parameters_sha256"]
    assert results[0]["accuracy"] > 0.6
