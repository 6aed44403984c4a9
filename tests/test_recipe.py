from __future__ import annotations

import tomllib
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from quorate.codecs.chain import Chain
from quorate.codecs.identity import Identity
from quorate.errors import RecipeError
from quorate.optimizer import Optimizer
from quorate.recipe import ProcessSettings, RecordSettings, SimulatorSettings, load, parse, resolve
from quorate.tasks import Task
from tests.commands import READY, RECIPES, write_recipe

SHORT = {"program": {"name": "synchronous_sgd", "steps": 3}, "optimizer": {"name": "sgd", "lr": 0.1}}


def made(**changes):
    return resolve(SHORT | changes, "r", Path())


def test_a_short_recipe_has_defaults_for_the_rest():
    recipe = made()
    assert (recipe.seed, recipe.workers, recipe.steps) == (0, 8, 3)
    assert recipe.tables["task"] == {"name": "digits", "hidden": 64}
    assert recipe.tables["partition"]["name"] == "iid"
    assert recipe.tables["program"] == {"name": "synchronous_sgd", "steps": 3, "batch": 32}
    assert (recipe.simulator, recipe.processes, recipe.record) == (
        SimulatorSettings(),
        ProcessSettings(),
        RecordSettings(),
    )
    assert recipe.exchange.codec == Identity()
    assert isinstance(recipe.task(None), Task)


@pytest.mark.parametrize("ready", READY)
def test_the_written_recipe_is_the_same_one(ready, tmp_path):
    recipe = load(RECIPES / f"{ready}.toml")
    again = parse(recipe.to_toml(), recipe.name, recipe.folder)
    assert again == recipe
    assert again.to_toml() == recipe.to_toml()


@given(
    seed=st.integers(0, 2**62 - 1),
    workers=st.integers(1, 10**6),
    steps=st.integers(1, 10**9),
    batch=st.integers(1, 10**6) | st.just("full"),
    lr=st.floats(0, 1e6),
    record=st.fixed_dictionaries({"metrics": st.integers(1, 99), "evaluate": st.integers(0, 99)}),
    latency=st.floats(0, 1e3) | st.sampled_from(["1 ms", "20us", "0.5 s"]),
)
def test_any_recipe_survives_being_written(seed, workers, steps, batch, lr, record, latency):
    recipe = made(
        seed=seed,
        workers=workers,
        program={"name": "synchronous_sgd", "steps": steps, "batch": batch},
        optimizer={"name": "sgd", "lr": lr},
        record=record,
        cluster={"latency": latency},
    )
    assert parse(recipe.to_toml(), "r", Path()) == recipe


def test_a_program_is_given_its_parts():
    recipe = load(RECIPES / "local_sgd.toml")
    keywords = recipe.program.keywords
    assert isinstance(keywords["optimizer"], Optimizer)
    assert callable(keywords["period"])
    assert "topology" not in keywords


def test_codecs_stand_in_their_order():
    assert made(codec=[{"name": "identity"}]).exchange.codec == Identity()
    assert made(codec=[{"name": "identity"}] * 2).exchange.codec == Chain((Identity(), Identity()))


def test_parts_of_ones_own_are_found_next_to_the_recipe(tmp_path):
    text = "from quorate.tasks.digits import digits\ndef mine(*, hidden: int = 5):\n    return digits(hidden=hidden)\n"
    (tmp_path / "own.py").write_text(text)
    recipe = load(write_recipe(tmp_path, {"task": {"name": "own.py:mine", "hidden": 7}}))
    assert recipe.task(None).model()[0].out_features == 7


def test_every_mistake_shows_before_the_data_is_read(tmp_path):
    (tmp_path / "own.py").write_text("def mine(*, data=None):\n    raise AssertionError('was called')\n")
    recipe = load(write_recipe(tmp_path, {"task": {"name": "own.py:mine"}}))
    with pytest.raises(RecipeError, match=r"task `own\.py:mine` failed: AssertionError: was called"):
        recipe.task(None)


@pytest.mark.parametrize("error", ["ValueError('two\\nlines')", "KeyError('x')"])
def test_a_task_that_raises_is_named(error, tmp_path):
    (tmp_path / "own.py").write_text(f"def mine():\n    raise {error}\n")
    with pytest.raises(RecipeError) as told:
        load(write_recipe(tmp_path, {"task": {"name": "own.py:mine"}})).task(None)
    assert "\n" not in str(told.value)


@pytest.mark.parametrize(
    ("changes", "says"),
    [
        ({"processes": {"timeout": 0}}, "[processes] `timeout`: input should be greater than 0, got 0"),
        ({"processes": {"timeout": "5"}}, "[processes] `timeout`: input should be a valid number, got '5'"),
        ({"simulator": {"paranoid": 1}}, "[simulator] `paranoid`: input should be a valid boolean, got 1"),
        ({"simulator": {"batch": "exact"}}, "unknown key `batch` in [simulator]\nhint: did you mean `batching`?"),
        ({"record": {"evaluate": -1}}, "[record] `evaluate`: input should be greater than or equal to 0, got -1"),
        ({"optimizer": {"lr": 0.1}}, '[optimizer] needs `name`, a class of torch.optim\nhint: name = "sgd"'),
        (
            {"optimizer": SHORT["optimizer"] | {"nesterov": 1}},
            "[optimizer] `nesterov`: input should be a valid boolean, got 1",
        ),
        ({"task": []}, '`task` must be a table, got []\nhint: [task]\nname = "..."'),
        ({"codec": ["identity"]}, "codecs are written as [[codec]], one table each, in their order"),
    ],
)
def test_what_cannot_be_meant_is_refused(changes, says):
    with pytest.raises(RecipeError) as error:
        made(**changes)
    assert str(error.value) == says


def test_ready_recipes_begin_with_what_they_show():
    for path in RECIPES.glob("*.toml"):
        assert path.read_text().startswith("# ")
        assert "program" in tomllib.loads(path.read_text())


def test_learning_rates_are_multiplied_and_written_as_they_were():
    several = [{"name": "warmup", "steps": 4}, {"name": "steps", "at": [10]}]
    recipe = made(learning_rate=several)
    assert recipe.program.keywords["learning_rate"](10, 8) == pytest.approx(0.8)
    assert parse(recipe.to_toml(), "r", Path()) == recipe
    assert recipe.tables["learning_rate"][0] == {"name": "warmup", "steps": 4, "scale": "linear", "start": 1.0}
    one = made(learning_rate={"name": "steps", "at": [10]})
    assert one.program.keywords["learning_rate"](10, 8) == pytest.approx(0.1)
    assert made().tables["learning_rate"] == {"name": "constant"}


@pytest.mark.parametrize(
    ("changes", "says"),
    [
        ({"learning_rate": ["steps"]}, "learning rates are written as [[learning_rate]], one table each"),
        ({"learning_rate": []}, "`learning_rate` must be a table, got []"),
        ({"learning_rate": {"name": "step"}}, "unknown learning_rate `step`\nhint: did you mean `steps`?"),
        ({"learning_rate": {"name": "steps", "at": [3, 2]}}, "`at` holds steps in ascending order; got [3, 2]"),
        ({"outer_optimizer": {"name": "sgd"}}, "program `synchronous_sgd` has no use for [outer_optimizer]"),
        (
            {
                "program": {"name": "diloco", "steps": 3},
                "period": {"name": "adaptive"},
            },
            "`diloco` needs a fixed period, not one that adapts",
        ),
        (
            {"program": {"name": "local_sgd", "steps": 3}, "period": {"name": "resource_adaptive"}},
            "resource_adaptive needs a budget\nhint: seconds = 60",
        ),
        (
            {"program": {"name": "diloco", "steps": 3}, "outer_optimizer": {"name": "yogi", "lr": -1.0}},
            "`lr` must be positive; got -1.0",
        ),
    ],
)
def test_periods_learning_rates_and_outer_optimizers_are_checked_before_the_run(changes, says):
    with pytest.raises(RecipeError) as error:
        made(**changes)
    assert says in str(error.value)


def test_an_outer_optimizer_has_a_default():
    recipe = made(program={"name": "diloco", "steps": 3})
    assert recipe.tables["outer_optimizer"] == {"name": "momentum", "lr": 0.7, "momentum": 0.9, "nesterov": True}
