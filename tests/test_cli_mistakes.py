from __future__ import annotations

import struct
from functools import partial

import pytest

from quorate import checkpoint, folder, parts
from tests.commands import call, refusal, write_recipe

PROGRAMS = "known: " + ", ".join(f"`{name}`" for name in sorted(parts.names("program")))
SGD = {"name": "sgd", "lr": 0.2}
STEPS = {"name": "synchronous_sgd", "steps": 20}


@pytest.fixture
def refused(monkeypatch, capsys):
    """Run a command that must be refused; return what it wrote to standard error."""
    return partial(refusal, monkeypatch, capsys)


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
        ({"aggregator": {"name": "meann"}}, "unknown aggregator `meann`\nhint: did you mean `mean`?"),
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
            "codecs are written as [[codec]], one table each, in their order",
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
            "\nhint: end the loss with `.mean()`\nrun:   {folder}/run, without a checkpoint",
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
    hint = "lower the learning rate, and look for NaN or huge values in the data"
    assert err == f"{problem}\nhint: {hint}\nrun:   {out}, with a checkpoint of step 8"
    facts = folder.read(out)
    assert (facts["status"], facts["error"], facts["result"]) == ("failed", problem, None)
    kept = checkpoint.latest(out / "checkpoints", 1)
    assert kept is not None
    assert kept.step == 8
