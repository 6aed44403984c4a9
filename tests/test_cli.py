from __future__ import annotations

import json
import os
import struct
import warnings

import pytest
import torch
from safetensors.torch import load_file

from quorate import checkpoint, folder, parts
from quorate.recipe import load
from quorate.tasks.digits import digits
from tests.commands import READY, RECIPES, call, metrics, result, stop_at, write_recipe

PROGRAMS = "known: `gossip`, `local_sgd`, `parameter_server`, `synchronous_sgd`"
SGD = {"name": "sgd", "lr": 0.2}
STEPS = {"name": "synchronous_sgd", "steps": 20}


@pytest.fixture
def refused(monkeypatch, capsys):
    """Run a command that must be refused; return what it wrote to standard error."""

    def run(*words: object) -> str:
        assert call(monkeypatch, *words) == 1
        out, err = capsys.readouterr()
        assert "Traceback" not in out + err
        assert err.startswith("error: ")
        return err.removeprefix("error: ").rstrip("\n")

    return run


@pytest.mark.parametrize(
    ("changes", "says"),
    [
        ({"sed": 7}, "unknown key `sed` in recipe `first_run`\nhint: did you mean `seed`?"),
        (
            {"task": {"name": "digits", "hiden": 9}},
            "unknown setting of `digits` `hiden`\nhint: did you mean `hidden`?",
        ),
        ({"optimizer": SGD | {"momentun": 0.9}}, "unknown setting of `sgd` `momentun`\nhint: did you mean `momentum`?"),
        (
            {"program": STEPS | {"name": "syncronous_sgd"}},
            "unknown program `syncronous_sgd`\nhint: did you mean `synchronous_sgd`?",
        ),
        ({"optimizer": {"name": "sdg"}}, "unknown optimizer `sdg`\nhint: did you mean `sgd`?"),
        ({"task": {"name": "digit"}}, "unknown task `digit`\nhint: did you mean `digits`?"),
        ({"partition": {"name": "idd"}}, "unknown partition `idd`\nhint: did you mean `iid`?"),
        ({"aggregator": {"name": "mena"}}, "unknown aggregator `mena`\nhint: did you mean `mean`?"),
        ({"codec": [{"name": "identiti"}]}, "unknown codec `identiti`\nhint: did you mean `identity`?"),
        ({"program": STEPS | {"steps": "many"}}, "[program] `steps`: input should be a valid integer, got 'many'"),
        ({"program": STEPS | {"steps": True}}, "[program] `steps`: input should be a valid integer, got True"),
        ({"program": STEPS | {"steps": 0}}, "`steps` must be at least 1, got 0\nhint: steps = 300"),
        (
            {"program": {"name": "synchronous_sgd"}},
            "`synchronous_sgd` needs `steps`, which the recipe's [program] does not give",
        ),
        ({"optimizer": SGD | {"lr": "fast"}}, "[optimizer] `lr`: input should be a valid number, got 'fast'"),
        ({"optimizer": SGD | {"lr": -1}}, "optimizer `sgd` refuses its settings: Invalid learning rate: -1"),
        ({"program": None}, f"recipe `first_run` has no [program]\nhint: {PROGRAMS}"),
        ({"program": {"steps": 20}}, f"[program] needs `name`, a string, got None\nhint: {PROGRAMS}"),
        ({"program": "gossip"}, "`program` must be a table, got 'gossip'\nhint: [program]\nname = \"...\""),
        (
            {"optimizer": None},
            'program `synchronous_sgd` needs an [optimizer]\nhint: [optimizer]\nname = "sgd"\nlr = 0.1',
        ),
        (
            {"topology": {"name": "ring"}},
            "program `synchronous_sgd` has no use for [topology]\nhint: leave out [topology]",
        ),
        ({"period": {"name": "every"}}, "program `synchronous_sgd` has no use for [period]\nhint: leave out [period]"),
        (
            {"codec": {"name": "identity"}},
            "codecs are written as [[codec]], one table each, in their order on the wire",
        ),
        ({"seed": -1}, "`seed`: input should be greater than or equal to 0, got -1"),
        ({"seed": "7"}, "`seed`: input should be a valid integer, got '7'"),
        ({"workers": 0}, "a run needs at least one worker, got workers = 0\nhint: workers = 8"),
        ({"workers": 2.5}, "`workers`: input should be a valid integer, got 2.5"),
        (
            {"workers": 2000},
            "2000 workers can't share 1438 training samples: each needs at least one\nhint: use at most 1438 workers",
        ),
        (
            {"cluster": {"latency": "10 parsecs"}},
            "[cluster] `latency`: write a number with one of the units s, ms, us, ns, min, h, not '10 parsecs'",
        ),
        (
            {"cluster": {"seconds_per_sample": "10 parsecs"}},
            "[cluster] `seconds_per_sample`: write a number with one of the units s, ms, us, ns, min, h,"
            " not '10 parsecs'",
        ),
        (
            {"cluster": {"uplink": "-5 Mbit/s"}},
            "[cluster] `uplink`: write a number with one of the units bit/s, kbit/s, Mbit/s, Gbit/s, B/s, kB/s, MB/s,"
            " GB/s, not '-5 Mbit/s'",
        ),
        ({"cluster": {"latency": True}}, "[cluster] `latency`: input should be a valid number, got True"),
        ({"cluster": {"latencies": "1 ms"}}, "unknown key `latencies` in [cluster]\nhint: did you mean `latency`?"),
        ({"record": {"metrics": 0}}, "[record] `metrics`: input should be greater than or equal to 1, got 0"),
        ({"record": {"metrics": "10"}}, "[record] `metrics`: input should be a valid integer, got '10'"),
        ({"processes": {"threads": True}}, "[processes] `threads`: input should be a valid integer, got True"),
        ({"processes": {"device": "gpu"}}, "[processes] `device`: input should be 'cpu' or 'cuda', got 'gpu'"),
        ({"record": 5}, "`record` must be a table, got 5\nhint: [record]"),
    ],
)
def test_a_wrong_recipe_is_refused(changes, says, refused, tmp_path):
    err = refused("run", write_recipe(tmp_path, changes), "--out", tmp_path / "run")
    assert err == says
    assert not (tmp_path / "run").exists()


@pytest.mark.parametrize(
    ("flags", "says"),
    [
        (["--simulate", 0], "a run needs at least one worker, got 0\nhint: --simulate 8"),
        (["--workers", 0], "a run needs at least one worker, got 0\nhint: --simulate 8"),
        (["--simulate", 2, "--workers", 2], "--simulate and --workers exclude each other\nhint: give one of them"),
        (["--seed", -1], "--seed: input should be greater than or equal to 0, got -1"),
        (
            ["--simulate", 2000],
            "2000 workers can't share 1438 training samples: each needs at least one\nhint: use at most 1438 workers",
        ),
        (
            ["--workers", 2000],
            "2000 workers can't share 1438 training samples: each needs at least one\nhint: use at most 1438 workers",
        ),
    ],
)
def test_wrong_flags_are_refused(flags, says, refused, tmp_path):
    assert refused("run", write_recipe(tmp_path), "--out", tmp_path / "run", *flags) == says
    assert not (tmp_path / "run").exists()


@pytest.mark.parametrize("flag", ["--simulate", "--workers"])
def test_torchrun_decides_how_many_workers_there_are(flag, refused, monkeypatch, tmp_path):
    for name, value in {"RANK": "0", "WORLD_SIZE": "2", "MASTER_ADDR": "127.0.0.1", "MASTER_PORT": "1"}.items():
        monkeypatch.setenv(name, value)
    assert refused("run", write_recipe(tmp_path), flag, 4) == (
        "started by torchrun, a run has torchrun's workers\nhint: leave out --simulate and --workers"
    )


@pytest.mark.parametrize("words", [["run"], ["run", "x.toml", "--simulat", "2"], ["walk"], ["compare", "--simulate"]])
def test_wrong_usage_ends_with_status_2(words, monkeypatch, capsys):
    assert call(monkeypatch, *words) == 2
    out, err = capsys.readouterr()
    assert "Traceback" not in out + err


def test_a_missing_recipe_is_named(refused, tmp_path):
    path = tmp_path / "none.toml"
    assert refused("run", path) == f"there is no recipe `{path}`\nhint: `quorate list` shows the ready ones"
    assert refused("run", tmp_path) == f"recipe `{tmp_path}` can't be read: [Errno 21] Is a directory: '{tmp_path}'"


def test_invalid_toml_is_placed(refused, tmp_path):
    (tmp_path / "r.toml").write_text("seed = 7\nworkers 8\n")
    assert refused("check", tmp_path / "r.toml") == (
        "recipe `r` is no valid TOML: Expected '=' after a key in a key/value pair (at line 2, column 9)"
    )
    (tmp_path / "r.toml").write_bytes(b"seed = 7 # \xff\n")
    assert refused("check", tmp_path / "r.toml").startswith(f"recipe `{tmp_path / 'r.toml'}` can't be read: 'utf-8'")


IMAGES = "train-images-idx3-ubyte"


def test_missing_or_damaged_data_is_named(refused, monkeypatch, tmp_path):
    monkeypatch.delenv("QUORATE_DATA", raising=False)
    recipe = write_recipe(tmp_path, {"task": {"name": "mnist"}})
    assert refused("run", recipe) == (
        "this task reads files, but no data folder was given\nhint: give --data FOLDER or set QUORATE_DATA"
    )
    data = tmp_path / "data"
    assert refused("run", recipe, "--data", data) == (
        f"data folder `{data}` does not exist\nhint: give a folder that exists with --data FOLDER or QUORATE_DATA"
    )
    data.mkdir()
    assert refused("run", recipe, "--data", data) == (
        f"data folder `{data}` holds no `mnist/{IMAGES}` or `mnist/{IMAGES}.gz` or `./{IMAGES}` or `./{IMAGES}.gz`"
        "\nhint: put the file there, or give another --data FOLDER"
    )
    (data / IMAGES).write_bytes(struct.pack(">4I", 2051, 10, 28, 28) + bytes(700))
    (data / "train-labels-idx1-ubyte").write_bytes(struct.pack(">2I", 2049, 10) + bytes(10))
    monkeypatch.setenv("QUORATE_DATA", str(data))
    assert refused("run", recipe, "--workers", 2) == (
        f"`{data / IMAGES}` is cut short: the header states the shape (10, 28, 28), 7840 bytes,"
        " but at most 700 can follow\nhint: get the file again: it is damaged, or not what its name says"
    )


def test_a_folder_that_cannot_be_written_is_refused(refused, tmp_path):
    recipe, file = write_recipe(tmp_path), tmp_path / "file"
    file.write_text("")
    for out, reason in ((file / "run", "Not a directory"), (file, "File exists")):
        err = refused("run", recipe, "--simulate", 2, "--out", out)
        assert err == f"can't write to `{out}`: {reason}\nhint: name another folder with --out"


def test_a_run_is_never_written_over(refused, monkeypatch, tmp_path):
    recipe, out = write_recipe(tmp_path), tmp_path / "run"
    assert call(monkeypatch, "run", recipe, "--simulate", 2, "--out", out) == 0
    before = (out / "run.json").read_bytes()
    assert refused("run", recipe, "--simulate", 2, "--out", out) == (
        f"`{out}` already holds a run\nhint: name another folder with --out, or `quorate resume {out}`"
    )
    assert (out / "run.json").read_bytes() == before
    assert refused("run", recipe, "--out", tmp_path) == (
        f"`{tmp_path}` is not empty, and holds no run\nhint: name another folder with --out"
    )


def test_resume_refuses_what_is_no_run(refused, tmp_path):
    assert refused("resume", tmp_path) == f"`{tmp_path}` is not a run folder: it has no run.json"
    assert refused("resume", tmp_path / "none") == f"`{tmp_path / 'none'}` is not a run folder: it has no run.json"
    (tmp_path / "run.json").write_text('{"status": "running"}')
    assert refused("resume", tmp_path) == f"`{tmp_path / 'run.json'}` does not describe a run"
    (tmp_path / "run.json").write_text('{"status":')
    assert refused("resume", tmp_path).startswith(f"`{tmp_path / 'run.json'}` can't be read: Expecting value")


@pytest.fixture
def interrupted(monkeypatch, capsys, tmp_path):
    """A simulated run that was interrupted in step 14 of 20."""
    monkeypatch.setattr("quorate.cli._shown", lambda: True)
    monkeypatch.setattr("quorate.cli.Progress", Interrupting)
    out = tmp_path / "run"
    assert call(monkeypatch, "run", write_recipe(tmp_path), "--simulate", 2, "--out", out) == 130
    assert capsys.readouterr().err == "stopped; `quorate resume RUN` goes on from the last checkpoint\n"
    monkeypatch.undo()
    return out


class Interrupting:
    """A progress bar in whose 14th step somebody presses Ctrl-C."""

    def __init__(self, *_, **__):
        self._stop = stop_at(14)

    def __enter__(self):
        return self

    def __exit__(self, *_):
        pass

    def add_task(self, *_, **__):
        return 0

    def update(self, _, completed, **__):
        self._stop(completed, {})


def test_an_interrupted_run_is_resumed(interrupted, monkeypatch, capsys, tmp_path):
    assert folder.read(interrupted)["status"] == "failed"
    assert call(monkeypatch, "resume", interrupted, "--json") == 0
    resumed = result(capsys.readouterr().out)
    assert (
        call(monkeypatch, "run", tmp_path / "first_run.toml", "--simulate", 2, "--out", tmp_path / "b", "--json") == 0
    )
    assert resumed["parameters_sha256"] == result(capsys.readouterr().out)["parameters_sha256"]


def test_a_finished_run_gives_its_result_again(interrupted, monkeypatch, capsys):
    assert call(monkeypatch, "resume", interrupted, "--json") == 0
    first = capsys.readouterr().out
    assert call(monkeypatch, "resume", interrupted, "--json") == 0
    out = capsys.readouterr().out
    assert out.startswith(f"`{interrupted}` is finished already\n")
    assert result(out) == result(first)


def test_a_checkpoint_cut_short_is_named(interrupted, refused, monkeypatch):
    path = interrupted / "checkpoints" / "step-00000012.0-of-1.safetensors"
    os.truncate(path, path.stat().st_size - 100)
    err = refused("resume", interrupted)
    assert err.startswith(f"checkpoint {path} is cut short or damaged (SafetensorError: ")
    assert err.endswith("\nhint: remove this file to go back to the checkpoint before it, then `quorate resume` again")
    path.unlink()
    assert call(monkeypatch, "resume", interrupted) == 0
    assert folder.read(interrupted)["result"]["steps"] == 20


def test_a_run_without_its_recipe_is_refused(interrupted, refused):
    path = interrupted / "recipe.toml"
    path.unlink()
    assert refused("resume", interrupted) == (f"`{path}` can't be read: [Errno 2] No such file or directory: '{path}'")


def test_a_run_that_goes_on_is_not_resumed(interrupted, refused):
    with folder.locked(interrupted):
        assert refused("resume", interrupted) == f"`{interrupted}` is being written by a run that still goes on"


OWN = """
import torch
from torch import nn
from torch.nn import functional
from quorate.tasks import Data, Task

x, y = torch.randn(40, 3), torch.arange(40) % 2
data = Data(x, y)


def vector():
    loss = lambda output, y: functional.cross_entropy(output, y, reduction="none")
    return Task(lambda: nn.Linear(3, 2), loss, data, data)


def infinite(*, after: int = 10):
    calls = 0

    def loss(output, y):
        nonlocal calls
        calls += 1
        return functional.cross_entropy(output, y) * (float("nan") if calls > 2 * after else 1)

    return Task(lambda: nn.Linear(3, 2), loss, data, data)


def wrong():
    return 5


def broken():
    raise KeyError("pixels")


def strange(*, data: "Missing" = None):
    return 5


number = 5
"""


@pytest.mark.parametrize(
    ("name", "says"),
    [
        ("none.py:vector", "task `none.py:vector`: there is no file {folder}/none.py or {cwd}/none.py"),
        ("own.py:victor", "task `own.py:victor`: `own.py` holds no `victor`\nhint: did you mean `vector`?"),
        ("own.py:wrong", "task `own.py:wrong` must return a quorate.tasks.Task, got 5"),
        ("own.py:broken", "task `own.py:broken` failed: KeyError: 'pixels'"),
        (
            "own.py:number",
            "task `own.py:number` can't be used: TypeError: 5 is not a callable object"
            "\nhint: name a function whose annotations can be read",
        ),
        (
            "own.py:strange",
            "task `own.py:strange` can't be used: NameError: name 'Missing' is not defined"
            "\nhint: name a function whose annotations can be read",
        ),
        (
            "bad.py:task",
            "task `bad.py:task`: {folder}/bad.py can't be run: ZeroDivisionError: division by zero",
        ),
        (
            "no_such_module:task",
            "task `no_such_module:task`: No module named 'no_such_module'"
            "\nhint: name a module that can be imported from here, or a file: `file.py:part`",
        ),
        ("json:task", None),
        ("json:dumps", "task `json:dumps` failed: TypeError: dumps() missing 1 required positional argument: 'obj'"),
        (
            "own.py:vector",
            "rank 0, step 1: the loss must be a scalar tensor, got a tensor of shape (20,)"
            "\nhint: end the loss with `.mean()`",
        ),
    ],
)
def test_mistakes_in_a_task_of_ones_own_are_told(name, says, refused, monkeypatch, tmp_path):
    (tmp_path / "own.py").write_text(OWN)
    (tmp_path / "bad.py").write_text("1 / 0")
    monkeypatch.chdir(tmp_path.parent)
    recipe = write_recipe(tmp_path, {"task": {"name": name}})
    err = refused("run", recipe, "--simulate", 2, "--out", tmp_path / "run")
    if says is None:
        assert err.startswith("task `json:task`: `json` holds no `task`\nhint: ")
    else:
        assert err == says.format(folder=tmp_path, cwd=tmp_path.parent)


def test_a_loss_that_is_not_finite_stops_the_run_and_keeps_the_checkpoint(refused, tmp_path):
    (tmp_path / "own.py").write_text(OWN)
    recipe, out = write_recipe(tmp_path, {"task": {"name": "own.py:infinite"}}), tmp_path / "run"
    err = refused("run", recipe, "--simulate", 2, "--out", out)
    step = int(err.split(", step ")[1].split(":")[0])
    assert 9 <= step <= 11
    problem = f"rank {err.split()[1].rstrip(',')}, step {step}: the loss is not finite (nan)"
    assert err == f"{problem}\nhint: lower the learning rate, and look for NaN or huge values in the data"
    facts = folder.read(out)
    assert (facts["status"], facts["error"], facts["result"]) == ("failed", problem, None)
    kept = checkpoint.latest(out / "checkpoints", 1)
    assert kept is not None
    assert kept.step == 8


def test_a_finished_run_holds_what_it_should(monkeypatch, capsys, tmp_path):
    out = tmp_path / "run"
    assert call(monkeypatch, "run", write_recipe(tmp_path), "--simulate", 2, "--out", out, "--json") == 0
    told = result(capsys.readouterr().out)
    assert list(told) == [
        *("accuracy", "loss", "steps", "clock_seconds", "wall_seconds", "bytes", "parameters_sha256", "run")
    ]
    lines = metrics(out)
    assert [line["step"] for line in lines] == [5, 10, 15, 20]
    assert [line["step"] for line in lines if "accuracy" in line] == [10, 20]
    assert (lines[-1]["accuracy"], lines[-1]["test_loss"]) == (told["accuracy"], told["loss"])
    assert (lines[-1]["bytes"], lines[-1]["clock_seconds"]) == (told["bytes"], told["clock_seconds"])
    trace = json.loads((out / "trace.json").read_text())
    assert sum(worker["sent_bytes"] for worker in trace["workers"]) == told["bytes"]
    model = digits().model()
    model.load_state_dict(load_file(out / "parameters.safetensors"), strict=True)
    flat = torch.cat([parameter.detach().reshape(-1) for parameter in model.parameters()])
    assert folder.sha256(flat) == told["parameters_sha256"]
    facts = folder.read(out)
    assert (facts["status"], facts["error"], facts["result"]) == ("finished", None, told)
    assert "<html" in (out / "report.html").read_text()
    assert load(out / "recipe.toml").to_toml() == (out / "recipe.toml").read_text()


def test_tensorboard_reads_the_events(monkeypatch, tmp_path):
    out = tmp_path / "run"
    assert call(monkeypatch, "run", write_recipe(tmp_path), "--simulate", 2, "--out", out) == 0
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        loader = pytest.importorskip("tensorboard.backend.event_processing.event_accumulator")
        events = loader.EventAccumulator(str(out / "tensorboard")).Reload()
    assert [event.step for event in events.Scalars("train_loss")] == [5, 10, 15, 20]
    assert [event.step for event in events.Scalars("accuracy")] == [10, 20]
    lines = {line["step"]: line for line in metrics(out)}
    for event in events.Scalars("test_loss"):
        assert event.value == pytest.approx(lines[event.step]["test_loss"])


def test_check_says_what_travels(monkeypatch, capsys):
    assert call(monkeypatch, "check", RECIPES / "first_run.toml", "--workers", 3) == 0
    out = capsys.readouterr().out
    assert out.startswith(f"{RECIPES / 'first_run.toml'}: ok\n")
    rows = {" ".join(line.split()) for line in out.splitlines()}
    assert {"program synchronous_sgd, 300 steps", "workers 3", "messages Identity()", "noise no"} <= rows
    assert "in a meeting updates are summed on their way (all-reduce)" in rows


@pytest.mark.parametrize("ready", READY)
def test_every_ready_recipe_passes_the_check(ready, monkeypatch):
    assert call(monkeypatch, "check", RECIPES / f"{ready}.toml") == 0


def test_list_gives_every_part_and_recipe_a_line(monkeypatch, capsys):
    monkeypatch.chdir(RECIPES.parent)
    assert call(monkeypatch, "list") == 0
    out = capsys.readouterr().out
    for kind in parts.KINDS:
        assert f"{parts.KINDS[kind]}\n" in out
        for name, line in parts.names(kind).items():
            assert line
            assert f"  {name:20} {line}\n" in out
    for ready in READY:
        assert f"  recipes/{ready}.toml" in out


def test_compare_puts_recipes_and_runs_side_by_side(monkeypatch, capsys, tmp_path):
    monkeypatch.chdir(tmp_path)
    one, other = write_recipe(tmp_path), write_recipe(tmp_path, ready="gossip")
    assert call(monkeypatch, "run", one, "--simulate", 2, "--out", "first") == 0
    capsys.readouterr()
    assert call(monkeypatch, "compare", "first", other, "--simulate", 2, "--json") == 0
    out = capsys.readouterr().out
    assert "report: comparison.html" in out
    assert "gossip" in (tmp_path / "comparison.html").read_text()
    told = json.loads(out.splitlines()[-1])
    assert told[0] == folder.read(tmp_path / "first")["result"]
    assert told[1]["parameters_sha256"] != told[0]["parameters_sha256"]


def test_report_draws_the_pictures_again(interrupted, monkeypatch, capsys):
    assert call(monkeypatch, "resume", interrupted) == 0
    path = interrupted / "report.html"
    path.unlink()
    assert call(monkeypatch, "report", interrupted) == 0
    assert path.is_file()
    assert capsys.readouterr().out.endswith(f"report: {path}\n")


def test_report_shows_a_run_that_was_stopped(interrupted, monkeypatch):
    assert call(monkeypatch, "report", interrupted) == 0
    assert (interrupted / "report.html").is_file()


def test_report_names_what_is_no_run(refused, tmp_path):
    assert refused("report", tmp_path).startswith(f"`{tmp_path}` is not a run folder: it has no run.json")
