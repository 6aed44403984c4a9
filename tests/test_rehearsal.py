from __future__ import annotations

import json

import pytest

from quorate import folder
from quorate import run as runs
from quorate.elastic import events
from quorate.errors import RecipeError, RunError
from quorate.recipe import load, parse
from quorate.rehearsal import in_epochs, schedule_of
from tests.commands import RECIPES, call, metrics, refusal, write_recipe, write_task

pytestmark = pytest.mark.usefixtures("without_reports")
SAME = ("accuracy", "loss", "steps", "clock_seconds", "bytes", "parameters_sha256", "epochs", "stalls", "samples")
LINKS = {"seconds_per_sample": "1 ms", "uplink": "8 Mbit/s", "downlink": "8 Mbit/s", "latency": "1 ms"}


def event(kind, at, *ranks, **more):
    return {"kind": kind, "at": at, "ranks": list(ranks)} | more


def with_events(*found, **more):
    return {"workers": 4, "cluster": LINKS | {"event": list(found), "detection": "100 ms", "regroup": "10 ms"} | more}


def stop_from(step):
    """Return a progress function that breaks off after a step, which need not be told if an epoch ends meanwhile."""

    def progress(done, _):
        if done >= step:
            raise KeyboardInterrupt

    return progress


COMING_AND_GOING = (
    event("crash", "150 ms", 1),
    event("slow", "100 ms", 2, lasts="80 ms", factor=2.0),
    event("join", "330 ms", 1),
    event("cut", "500 ms", 0, lasts="150 ms"),
)


@pytest.fixture(scope="module", params=["first_run", "local_sgd", "gossip", "diloco", "adaptive_period"])
def uninterrupted(request, tmp_path_factory):
    """A ready recipe's name, the recipe with workers that come and go, the result, and the run's folder."""
    place = tmp_path_factory.mktemp(request.param)
    changes = with_events(*COMING_AND_GOING) | {"record": {"metrics": 3, "evaluate": 5, "checkpoint": 2}}
    recipe = load(write_recipe(place, changes, request.param))
    return request.param, recipe, runs.simulate(recipe, 4, place / "whole"), place / "whole"


@pytest.mark.parametrize("step", [2, 6, 13, 18])
def test_a_resumed_run_is_like_an_uninterrupted_one(uninterrupted, step, tmp_path):
    """The bytes of an interrupted run are those of programs that keep step; others had begun the next one."""
    ready, recipe, whole, folder_of_whole = uninterrupted
    assert whole["epochs"] >= 3
    with pytest.raises(KeyboardInterrupt):
        runs.simulate(recipe, 4, tmp_path / "stopped", progress=stop_from(step))
    resumed = runs.resume(tmp_path / "stopped")
    for name in SAME:
        if name != "bytes" or ready == "first_run":
            assert resumed[name] == whole[name], name
    assert events(tmp_path / "stopped") == events(folder_of_whole)
    lines = [metrics(place) for place in (tmp_path / "stopped", folder_of_whole)]
    for line in lines[0] + lines[1] if ready != "first_run" else []:
        del line["bytes"]
    assert lines[0] == lines[1]


def test_the_folder_tells_who_came_and_went_as_a_real_run_s_does(tmp_path, monkeypatch, capsys):
    recipe, run = write_recipe(tmp_path, with_events(event("crash", "150 ms", 1), event("join", "330 ms", 1))), "run"
    assert call(monkeypatch, "run", recipe, "--out", tmp_path / run, "--json") == 0
    out, err = capsys.readouterr()
    told = json.loads(out.splitlines()[-1])
    assert err == (
        "step 3: rank 1 left; 3 workers go on after 0.18 s\nstep 5: rank 1 joined; 4 workers go on after 0.12 s\n"
    )
    first, without, stood, with_it, stood_again = events(tmp_path / run)
    assert first["members"] == ["rank 0", "rank 1", "rank 2", "rank 3"]
    assert (without["left"], without["joined"], without["step"]) == (["rank 1"], [], 2)
    assert (with_it["left"], with_it["joined"], with_it["stayed"]) == ([], ["rank 1"], ["rank 0", "rank 2", "rank 3"])
    assert (stood["in"], stood_again["in"]) == (without["epoch"], with_it["epoch"]) == ("1", "2")
    assert told["stalls"] == [stood["stall"], stood_again["stall"]]
    assert (told["epochs"], told["steps"], told["samples"]) == (3, 20, 32 * (4 * 18 + 3 * 2))
    facts = folder.read(tmp_path / run)
    assert facts["schedule"] == "rank 1 crashes at 0.15 s; rank 1 joins at 0.33 s"
    assert facts["workers"] == 4
    workers = json.loads((tmp_path / run / "trace.json").read_text())["workers"]
    assert [worker["rank"] for worker in workers] == [0, 1, 2, 3]
    assert [worker["away_seconds"] > 0 for worker in workers] == [False, True, False, False]


SERVERS = {"name": "parameter_server", "steps": 20, "servers": 1, "colocated": False}


@pytest.mark.parametrize("step", [4, 9, 13])
def test_a_program_that_survives_goes_on_by_itself_and_is_resumed(step, tmp_path):
    changes = with_events(event("crash", "200 ms", 1)) | {"program": SERVERS}
    recipe, told = load(write_recipe(tmp_path, changes, "parameter_server")), []
    assert not in_epochs(recipe, schedule_of(recipe, 4))
    whole = runs.simulate(recipe, 4, tmp_path / "whole", told=told.append)
    (line,) = events(tmp_path / "whole")
    assert (line["left"], line["clock"]) == (["rank 1"], pytest.approx(0.3))
    assert told == [f"step {line['step']}: rank 1 left; 3 workers go on"]
    with pytest.raises(KeyboardInterrupt):
        runs.simulate(recipe, 4, tmp_path / "stopped", progress=stop_from(step))
    resumed = runs.resume(tmp_path / "stopped")
    for name in ("accuracy", "loss", "steps", "clock_seconds", "parameters_sha256"):
        assert resumed[name] == whole[name]
    assert events(tmp_path / "stopped") == events(tmp_path / "whole")
    assert metrics(tmp_path / "stopped") == metrics(tmp_path / "whole")


def test_a_run_that_can_not_go_on_says_who_was_missed(tmp_path):
    changes = with_events(event("crash", "200 ms", 3)) | {"program": SERVERS}
    recipe = load(write_recipe(tmp_path, changes, "parameter_server"))
    with pytest.raises(RunError) as error:
        runs.simulate(recipe, 4, tmp_path / "run")
    assert error.value.problem.startswith("rank ")
    assert error.value.problem.endswith("rank 3 has left: it crashed at 0.2 s") or (
        error.value.problem == "rank 3, which serves the others, has left: it crashed at 0.2 s"
    )
    assert folder.read(tmp_path / "run")["status"] == "failed"


@pytest.mark.parametrize("ready", ["first_run", "gossip", "parameter_server"])
def test_events_that_come_too_late_change_no_bit(ready, tmp_path):
    plain = runs.simulate(load(write_recipe(tmp_path, with_events(), ready)), 4, tmp_path / "plain")
    changes = with_events(event("pause", "1 h", 1, lasts="1 s"), event("cut", "1 h", 1, lasts="50 ms"))
    found = runs.simulate(load(write_recipe(tmp_path, changes, ready)), 4, tmp_path / "found")
    for name in ("clock_seconds", "bytes", "parameters_sha256"):
        assert found[name] == plain[name]
    assert not (tmp_path / "found" / "events.jsonl").exists()


@pytest.mark.parametrize(
    ("ready", "changes", "problem", "hint"),
    [
        (
            "parameter_server",
            with_events(event("crash", 1.0, 1), event("join", 2.0, 1)),
            "program `parameter_server` goes on by itself without workers that leave, but takes in none that join",
            'leave out the events of the kind "join"',
        ),
        (
            "first_run",
            with_events(event("crash", 1.0, 1)) | {"partition": {"name": "shards"}},
            "when workers come and go, the samples are divided anew, so the partition `shards` can't be kept",
            'name = "iid" in [partition]',
        ),
        (
            "gossip",
            with_events(event("crash", 1.0, 1))
            | {"program": {"name": "ad_psgd", "steps": 20}, "topology": {"name": "ring"}},
            "program `ad_psgd` talks in connections of two workers, which are not rebuilt when a worker leaves",
            'leave out the events of the kinds "crash", "join" and "cut"',
        ),
        (
            "torus_gossip",
            with_events(event("crash", 1.0, 1)),
            None,
            None,
        ),
        (
            "first_run",
            with_events(event("crash", 1.0, 7)),
            "rank 7 crashes at 1 s, but of 4 workers the last is rank 3",
            "ranks = [3], or --simulate 8",
        ),
    ],
)
def test_what_a_program_can_not_go_through_is_refused_before_the_run(ready, changes, problem, hint, tmp_path):
    recipe = load(write_recipe(tmp_path, changes, ready))
    with pytest.raises(RecipeError) as error:
        schedule_of(recipe, 4)
    if problem is None:
        assert error.value.problem.startswith("with the 3 workers from 1 s on: ")
    else:
        assert (error.value.problem, error.value.hint) == (problem, hint)


def test_check_tells_the_schedule_and_refuses_as_run_does(tmp_path, monkeypatch, capsys):
    recipe = write_recipe(tmp_path, with_events(event("crash", 1.0, 1), event("join", 2.0, 1)))
    assert call(monkeypatch, "check", recipe) == 0
    shown = " ".join(capsys.readouterr().out.split())
    assert "schedule rank 1 crashes at 1 s; rank 1 joins at 2 s" in shown
    assert "who leaves all begin anew from the last step" in shown
    said = "rank 1 crashes at 1 s, but of 1 workers the last is rank 0\nhint: ranks = [0], or --simulate 2"
    assert refusal(monkeypatch, capsys, "check", recipe, "--workers", 1) == said
    assert refusal(monkeypatch, capsys, "run", recipe, "--simulate", 1, "--out", tmp_path / "none") == said
    assert not (tmp_path / "none").exists()


def test_a_mistake_in_an_event_is_told_with_its_place(tmp_path, monkeypatch, capsys):
    recipe = write_recipe(tmp_path, with_events(event("crash", 1.0, 1), event("pause", 2.0, 1)))
    assert refusal(monkeypatch, capsys, "check", recipe) == (
        "[cluster] `event.1`: a pause needs `lasts`, e.g. lasts = \"2 s\", got {'kind': 'pause', 'at': 2.0,"
        " 'ranks': [1]}"
    )


def test_a_run_in_epochs_may_be_of_any_task(tmp_path):
    recipe = load(write_task(tmp_path, 20))
    changed = recipe.cluster.model_validate(with_events(event("crash", "50 ms", 2))["cluster"])
    object.__setattr__(recipe, "cluster", changed)
    assert runs.simulate(recipe, 3, tmp_path / "run")["steps"] == 20


def test_the_ready_recipe_rehearses_what_it_says(tmp_path):
    recipe = load(RECIPES / "stragglers.toml")
    schedule = schedule_of(recipe, recipe.workers)
    assert {each.kind for each in schedule.events} == {"pause", "slow", "crash", "join", "cut"}
    assert in_epochs(recipe, schedule)
    assert parse(recipe.to_toml(), recipe.name, recipe.folder) == recipe
