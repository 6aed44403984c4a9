from __future__ import annotations

import json
import os
import struct

import pytest

from quorate import folder
from tests.commands import (
    READY,
    call,
    has_checkpoint,
    kill,
    output_of,
    result,
    started,
    stop_at,
    until,
    workers,
    write_recipe,
    write_task,
)

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
        ({"optimizer": {"name": "sgd", "rate": 1}}, None),
        ({"program": STEPS | {"name": "syncronous_sgd"}}, None),
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
        ({"optimizer": SGD | {"lr": "fast"}}, None),
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
        ({"codec": {"name": "identity"}}, None),
        ({"seed": -1}, "`seed`: input should be greater than or equal to 0, got -1"),
        ({"seed": "7"}, "`seed`: input should be a valid integer, got '7'"),
        ({"workers": 0}, "a run needs at least one worker, got workers = 0\nhint: workers = 8"),
        ({"workers": 2.5}, None),
        ({"workers": 2000}, "2000 workers can't share 1438 training samples: each needs at least one"),
        ({"cluster": {"latency": "10 parsecs"}}, None),
        ({"cluster": {"seconds_per_sample": "10 parsecs"}}, None),
        ({"cluster": {"uplink": "-5 Mbit/s"}}, None),
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
    print(err)
    assert says is not None and says in err
    assert not (tmp_path / "run").exists()
