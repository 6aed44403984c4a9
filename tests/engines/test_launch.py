from __future__ import annotations

import json
import os
import re
import signal
import socket
import subprocess
import sys
import time

import pytest

from quorate import folder
from quorate import run as runs
from quorate.engines import PeerError
from quorate.engines.launch import launch, report
from quorate.errors import RunError
from quorate.recipe import load
from tests.commands import call, has_checkpoint, kill, metrics, started, until, workers, write_task

HOST = socket.gethostname()
FAILING = '        raise ValueError("a bad sample")'


def python(text: str) -> list[str]:
    return [sys.executable, "-c", f"import json, os, signal, sys, time\n{text}"]


def tells(rank: int, problem: str, peer: bool) -> list[str]:
    told = json.dumps({"problem": problem, "hint": None, "peer": peer})
    return python(f"open(os.environ['QUORATE_ERRORS'] + '/error-{rank}.json', 'w').write('''{told}'''); sys.exit(1)")


GOOD, SLEEPS = python(""), python("time.sleep(60)")
DIES = python("os.kill(os.getpid(), signal.SIGKILL)")
MEMORY = "\nhint: was it short of memory? See `dmesg`"


@pytest.mark.parametrize(
    ("commands", "says"),
    [
        ([GOOD, DIES], f"rank 1 was killed by SIGKILL{MEMORY}"),
        ([SLEEPS, DIES], f"rank 1 was killed by SIGKILL{MEMORY}"),
        ([tells(0, "it is late", True), DIES], f"rank 1 was killed by SIGKILL; it is late{MEMORY}"),
        ([tells(0, "it is late", True), tells(1, "a bad sample", False), DIES], "a bad sample"),
        ([SLEEPS, tells(1, "rank 0 is halted", True)], "rank 0 is halted"),
        ([GOOD, python("sys.exit(7)")], "workers stopped without a word; exit codes by rank: {1: 7}"),
    ],
)
@pytest.mark.processes
def test_the_cause_that_lies_deepest_is_told(commands, says, monkeypatch, tmp_path):
    monkeypatch.setattr("quorate.engines.launch._GRACE", 0.5)
    with pytest.raises(RunError) as error:
        launch(commands, tmp_path)
    assert str(error.value) == says


@pytest.mark.processes
def test_all_may_end_well(tmp_path):
    launch([GOOD, GOOD], tmp_path)


@pytest.mark.processes
def test_a_worker_ends_if_its_launcher_is_not_its_parent():
    text = "from quorate.engines.launch import die_with_parent; die_with_parent(); print('alive')"
    command = [sys.executable, "-c", text]
    for launcher, status, out in (("1", 1, ""), (str(os.getpid()), 0, "alive\n")):
        ended = subprocess.run(
            command, env=os.environ | {"QUORATE_LAUNCHER": launcher}, capture_output=True, text=True, timeout=30
        )
        assert (ended.returncode, ended.stdout) == (status, out)


def test_a_worker_tells_the_launcher_why_it_stops(monkeypatch, capsys, tmp_path):
    monkeypatch.setenv("QUORATE_ERRORS", str(tmp_path))
    report(1, PeerError("rank 0 is late"))
    assert json.loads((tmp_path / "error-1.json").read_text()) == {
        "problem": "rank 0 is late",
        "hint": None,
        "peer": True,
    }
    monkeypatch.delenv("QUORATE_ERRORS")
    report(1, RunError("a bad sample", "look at it"))
    assert capsys.readouterr().err == "error: a bad sample\nhint: look at it\n"


@pytest.mark.processes
def test_a_killed_worker_ends_the_run_and_is_named(tmp_path):
    recipe, run = write_task(tmp_path, 120), tmp_path / "run"
    with started("run", recipe, "--workers", 3, "--out", run, SECONDS_PER_LOSS=0.1) as process:
        until(has_checkpoint(run))
        killed, began = workers(run)[1], time.monotonic()
        kill(killed)
        _, err = process.communicate(timeout=200)
        assert time.monotonic() - began < 60
    assert process.returncode == 1
    assert not workers(run)
    assert "Traceback" not in err
    assert err.startswith("error: rank 1 was killed by SIGKILL; rank ")
    assert f"rank 1 ({HOST}) is dead, halted or cut off" in err
    assert re.search(r"all_reduce failed (at once|after \d+\.\d s): rank", err)
    assert "failed after 0.0 s" not in err
    assert folder.read(run)["status"] == "failed"
    whole = runs.simulate(load(recipe), 3, tmp_path / "whole")
    assert runs.resume(run)["parameters_sha256"] == whole["parameters_sha256"]
    assert [line["step"] for line in metrics(run)] == [line["step"] for line in metrics(tmp_path / "whole")]


@pytest.mark.processes
def test_a_halted_worker_is_named_with_its_host_its_step_and_the_collective(tmp_path):
    recipe, run = write_task(tmp_path, 200, timeout=15.0), tmp_path / "run"
    with started("run", recipe, "--workers", 2, "--out", run, SECONDS_PER_LOSS=0.1) as process:
        until(has_checkpoint(run))
        os.kill(workers(run)[1], signal.SIGSTOP)
        _, err = process.communicate(timeout=200)
    assert process.returncode == 1
    assert not workers(run)
    assert "Traceback" not in err
    assert err.startswith(f"error: rank 0 ({HOST}), step ")
    assert 15 <= float(re.search(r"all_reduce failed after (\d+\.\d) s", err)[1]) < 60
    assert (
        f": rank 1 ({HOST}) is dead, halted or cut off: nothing was heard of it for over 3.5 s; it was in step " in err
    )


@pytest.mark.processes
def test_a_mistake_on_one_rank_is_told_by_that_rank(monkeypatch, capfd, tmp_path):
    recipe, run = write_task(tmp_path, 50), tmp_path / "run"
    monkeypatch.setenv("FAILS_ON", "1")
    assert call(monkeypatch, "run", recipe, "--workers", 2, "--out", run) == 1
    out, err = capfd.readouterr()
    lines = (tmp_path / "blobs.py").read_text().splitlines()
    place = f"{tmp_path}/blobs.py:{1 + lines.index(FAILING)}"
    assert out == ""
    told = f"error: rank 1, step 5: the model or its loss failed: ValueError: a bad sample (at {place})"
    assert err == f"{told}\nrun:   {run}, with a checkpoint of step 4\n"
    assert folder.read(run)["error"] in err
