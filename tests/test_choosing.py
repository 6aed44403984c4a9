from __future__ import annotations

from dataclasses import replace

import pytest

from quorate import choosing, folder
from quorate import run as runs
from quorate.adaptive import Choice
from quorate.codecs.adaptive import Adaptive
from quorate.codecs.identity import Identity
from quorate.collectives.direct import direct
from quorate.errors import QuorateError, RunError
from quorate.exchange import Exchange
from quorate.recipe import load
from tests.commands import metrics, stop_at, write_recipe, write_task

SLOW = {"seconds_per_sample": "1 us", "uplink": "1 Mbit/s", "downlink": "1 Mbit/s", "latency": "1 ms"}
FAST = {"seconds_per_sample": "1 ms", "uplink": "10 Gbit/s", "downlink": "10 Gbit/s", "latency": "1 us"}
TWO = {"name": "adaptive", "candidates": ["dense", "top_k 0.01"]}


def adaptive(tmp_path, cluster=SLOW, codec=TWO, ready="first_run", **changes):
    return load(write_recipe(tmp_path, {"codec": [codec], "cluster": cluster, **changes}, ready))


def chosen(run) -> Choice:
    return Choice.of(folder.read(run)[choosing.KEY])


@pytest.mark.parametrize(("cluster", "name"), [(SLOW, "top_k 0.01"), (FAST, "dense")])
def test_a_simulation_is_what_its_choice_alone_would_be(cluster, name, tmp_path):
    told: list[str] = []
    recipe = adaptive(tmp_path, cluster)
    result = runs.simulate(recipe, 3, tmp_path / "run", told=told.append)
    assert chosen(tmp_path / "run").name == name
    assert told == [str(chosen(tmp_path / "run"))]
    assert told[0].startswith(f"adaptive: {name}, because ")
    codecs = [{"name": "error_feedback"}, {"name": "top_k", "ratio": 0.01}] if name != "dense" else []
    alone = runs.simulate(load(write_recipe(tmp_path, {"cluster": cluster, "codec": codecs})), 3, tmp_path / "alone")
    for key in ("parameters_sha256", "bytes") if name != "dense" else ("parameters_sha256",):
        assert result[key] == alone[key]


def test_one_key_switches_it_off(tmp_path):
    off = runs.simulate(adaptive(tmp_path, codec={**TWO, "enabled": False}), 2, tmp_path / "off")
    dense = runs.simulate(load(write_recipe(tmp_path, {"cluster": SLOW})), 2, tmp_path / "dense")
    assert {**off, "run": "", "wall_seconds": 0} == {**dense, "run": "", "wall_seconds": 0}
    assert choosing.KEY not in folder.read(tmp_path / "off")
    recipe = adaptive(tmp_path, codec={**TWO, "enabled": False})
    assert choosing.resolved(recipe, {}).codec == Identity()


def test_a_resumed_run_keeps_its_choice(tmp_path):
    recipe = adaptive(tmp_path)
    whole = runs.simulate(recipe, 3, tmp_path / "whole")
    with pytest.raises(KeyboardInterrupt):
        runs.simulate(recipe, 3, tmp_path / "stopped", progress=stop_at(14))
    recorded = folder.read(tmp_path / "stopped")[choosing.KEY]
    resumed = runs.resume(tmp_path / "stopped")
    assert folder.read(tmp_path / "stopped")[choosing.KEY] == recorded
    assert resumed["parameters_sha256"] == whole["parameters_sha256"]
    assert metrics(tmp_path / "stopped") == metrics(tmp_path / "whole")


def test_the_recorded_choice_counts_whatever_would_be_chosen_now(tmp_path):
    """A folder that says "dense" on a link for which nobody would choose it."""
    recipe = adaptive(tmp_path)
    with pytest.raises(KeyboardInterrupt):
        runs.simulate(recipe, 2, tmp_path / "run", progress=stop_at(1))
    facts = Choice("dense", "direct", "somebody has said so").facts()
    folder.update(tmp_path / "run", {choosing.KEY: facts})
    resumed = runs.resume(tmp_path / "run")
    dense = runs.simulate(load(write_recipe(tmp_path, {"cluster": SLOW})), 2, tmp_path / "dense")
    assert resumed["parameters_sha256"] == dense["parameters_sha256"]
    exchange = choosing.resolved(recipe, {choosing.KEY: facts})
    assert (exchange.codec, exchange.collective) == (Identity(), direct)


@pytest.mark.usefixtures("forked_workers")
@pytest.mark.processes
def test_real_workers_measure_once_and_a_resumed_run_keeps_the_choice(tmp_path, capfd):
    path = write_task(tmp_path, 12)
    path.write_text(path.read_text() + '\n[[codec]]\nname = "adaptive"\ncandidates = ["dense", "top_k 0.25"]\n')
    recipe = load(path)
    runs.processes(recipe, 2, tmp_path / "run")
    assert capfd.readouterr().err == f"{chosen(tmp_path / 'run')}\n"
    assert len(chosen(tmp_path / "run").rows) == 2
    other = "top_k 0.25" if chosen(tmp_path / "run").name == "dense" else "dense"
    again = folder.create(tmp_path / "again", recipe, "processes", 2, None, {})
    facts = Choice(other, "gather", "it was").facts()
    folder.update(again, {choosing.KEY: facts})
    resumed = runs.resume(again)
    assert capfd.readouterr().err == ""
    assert folder.read(again)[choosing.KEY] == facts
    codecs = [{"name": "error_feedback"}, {"name": "top_k", "ratio": 0.25}] if other != "dense" else []
    alone = runs.simulate(replace(recipe, tables={**recipe.tables, "codec": codecs}), 2, tmp_path / "alone")
    assert resumed["parameters_sha256"] == alone["parameters_sha256"]


def test_members_that_come_and_go_keep_the_choice(tmp_path):
    cluster = SLOW | {"event": [{"kind": "crash", "at": "20 ms", "ranks": [1]}], "detection": "50 ms"}
    result = runs.simulate(adaptive(tmp_path, cluster), 3, tmp_path / "run")
    assert result["epochs"] == 2
    assert chosen(tmp_path / "run").name == "top_k 0.01"


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        (
            {"ready": "parameter_server"},
            "adaptive chooses for workers that meet all together, but those of `parameter_server` talk in pairs",
        ),
        (
            {"collective": {"name": "ring"}},
            "adaptive chooses how messages are summed, too\nhint: leave out [collective]",
        ),
        ({"codec": {**TWO, "candidates": ["tpo_k"]}}, "`adaptive` has no candidate `tpo_k`\nhint: did you mean"),
        ({"codec": {**TWO, "candidates": []}}, "adaptive has no candidates to choose from"),
        ({"codec": {**TWO, "fraction": 0.0}}, "[codec] `fraction`: input should be greater than 0"),
    ],
)
def test_refuses_what_can_not_be_meant(changes, message, tmp_path):
    with pytest.raises(QuorateError) as error:
        runs.simulate(adaptive(tmp_path, **changes), 3, tmp_path / "run")
    assert str(error.value).startswith(message)
    assert not (tmp_path / "run").exists()


def test_who_must_know_what_is_lost_can_not_leave_it_open(tmp_path):
    with pytest.raises(QuorateError, match="how much is lost by what adaptive will choose is not known before"):
        adaptive(tmp_path, ready="gossip")
    assert Adaptive(enabled=False).bound(10) == 0


def test_stands_alone(tmp_path):
    for codecs in ([TWO, {"name": "top_k"}], [{"name": "error_feedback"}, TWO]):
        with pytest.raises(QuorateError, match="needs to be the only codec"):
            load(write_recipe(tmp_path, {"codec": codecs}))


def test_a_folder_without_a_choice_is_refused(tmp_path):
    with pytest.raises(RunError, match="does not say which codec"):
        choosing.resolved(adaptive(tmp_path), {})


def test_more_steps_between_meetings_are_more_computing(tmp_path):
    found = {}
    for tau in (1, 50):
        recipe = adaptive(tmp_path, ready="local_sgd", period={"name": "every", "tau": tau})
        training = recipe.training(3, None)
        (choice,) = (Choice.of(each) for each in choosing.for_described(recipe, 3, training).values())
        found[tau] = choice
    assert "32.0 µs of computing" in found[1].because
    assert "1.60 ms of computing" in found[50].because


def test_the_table_marks_what_would_be_chosen(tmp_path):
    table = choosing.table(adaptive(tmp_path), 3)
    assert table is not None
    cells = [list(column.cells) for column in table.columns]
    assert cells[0] == ["dense", "top_k 0.01"]
    for column in cells[1:]:
        assert [cell.startswith("*") for cell in column].count(True) == 1
    assert choosing.table(load(write_recipe(tmp_path)), 3) is None


def test_a_recipe_with_it_is_read_back_from_its_folder(tmp_path):
    recipe = adaptive(tmp_path, codec={"name": "adaptive"})
    path = tmp_path / "again.toml"
    path.write_text(recipe.to_toml())
    assert load(path).exchange.codec == Exchange(Adaptive()).codec
    assert load(path).to_toml() == recipe.to_toml()
