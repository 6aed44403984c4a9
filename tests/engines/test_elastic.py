from __future__ import annotations

import json
import os
import re
import shutil
import signal
import time
from pathlib import Path
from typing import Any

import pytest
import tomli_w
import torch
import torch.distributed as dist
from safetensors.torch import load_file

from quorate import elastic, folder
from quorate.engines.elastic import Elastic, Settings
from quorate.engines.elastic_node import Over, nothing
from quorate.engines.membership import Coordinator, Epoch, Member
from quorate.engines.watch import View
from tests.commands import kill, output_of, result, started, until
from tests.engines import tally

pytest.importorskip("torchft")
pytestmark = pytest.mark.processes
SLOW = {"SECONDS_PER_LOSS": 0.05, "OMP_NUM_THREADS": 1}


def recipe_in(place: Path, steps: int, program: str = "tally.py:told", **processes: Any) -> Path:
    """Write a recipe of the tally beside it."""
    shutil.copy(tally.__file__, place / "tally.py")
    whole = {
        "seed": 1,
        "task": {"name": "tally.py:tally"},
        "program": {"name": program, "steps": steps, "batch": 8},
        "optimizer": {"name": "sgd", "lr": 1.0},
        "processes": processes,
        "record": {"metrics": 5, "evaluate": 20, "checkpoint": 10},
    }
    (place / "hashes").mkdir()
    path = place / "recipe.toml"
    path.write_text(tomli_w.dumps(whole))
    return path


def members(run: Path) -> dict[int, int]:
    """Return the process ids of a run's first workers, by number."""
    found = {}
    address = folder.read(run).get("address", "none").encode()
    for place in Path("/proc").glob("[0-9]*"):
        try:
            words = (place / "cmdline").read_bytes().split(b"\0")
            alive = (place / "stat").read_text().rpartition(")")[2].split()[0] != "Z"
        except OSError:
            continue
        if b"member" in words and address in words and alive:
            found[int(words[words.index(b"--number") + 1])] = int(place.name)
    return found


def step_of(run: Path) -> int:
    """Return the step of the last line of a run's metrics."""
    path = run / "metrics.jsonl"
    lines = path.read_text().splitlines() if path.exists() else []
    return int(json.loads(lines[-1])["step"]) if lines else 0


def require_exact(run: Path, told: dict[str, Any]) -> None:
    """Check that each sample was used at most once, in steps whose weights sum to 1."""
    used = -load_file(run / "parameters.safetensors")["used"].double()
    assert float(used.sum()) == pytest.approx(told["steps"], abs=1e-3)
    assert int((used > 0).sum()) == told["samples"]


def test_workers_are_killed_and_join_and_each_sample_is_used_once(tmp_path):
    recipe, run = recipe_in(tmp_path, 120), tmp_path / "run"
    variables = SLOW | {"HASHES": tmp_path / "hashes"}
    with started("run", recipe, "--workers", 3, "--elastic", "--out", run, "--json", **variables) as process:
        until(lambda: step_of(run) >= 10)
        with started("join", folder.read(run)["address"], "--batch", 20, **variables) as joining:
            kill(members(run)[0])
            out, err = process.communicate(timeout=200)
            assert joining.communicate(timeout=200)[0].startswith("the run has ended")
    assert process.returncode == 0, err
    told = result(out)
    require_exact(run, told)
    assert told["steps"] == 120
    assert told["epochs"] == 3
    assert len(told["stalls"]) == 2
    assert "worker 0 was killed by SIGKILL" in err
    assert re.search(r"step \d+: a\d+-\S+ left; 2 workers go on after \d\.\d\d s", err)
    assert re.search(r"step \d+: a\d+-\S+ joined; [23] workers go on after \d\.\d\d s", err)
    hashes = {path.read_text() for path in (tmp_path / "hashes").iterdir()}
    assert hashes == {told["parameters_sha256"]}
    assert len(list((tmp_path / "hashes").iterdir())) == 3
    assert [line["batches"] for line in elastic.events(run) if "epoch" in line][-1] == [0, 0, 20]
    assert (run / "report.html").exists()


def test_too_few_workers_stop_a_lost_coordinator_stops_and_fewer_go_on(tmp_path):
    recipe, run = recipe_in(tmp_path, 60, "synchronous_sgd", patience=2.5), tmp_path / "run"
    with started("run", recipe, "--workers", 2, "--elastic", "--out", run, **SLOW) as process:
        until(lambda: step_of(run) >= 10)
        kill(members(run)[0])
        _, err = process.communicate(timeout=200)
    assert process.returncode == 1
    assert "Traceback" not in err
    assert "paused after step " in err
    assert "there were fewer than 2 workers, which a run needs to go on; of 2 members, nothing is heard of a0" in err
    assert "\nhint: `quorate resume RUN`" in err
    kept = max(int(path.name[5:13]) for path in (run / "checkpoints").iterdir())

    with started("resume", run, "--workers", 1, **SLOW) as process:
        until(lambda: step_of(run) >= kept + 10)
        assert [each["step"] for each in elastic.events(run) if "epoch" in each][-1] == kept >= 10
        left = list(members(run).values())
        kill(process.pid)
        began = time.monotonic()
        until(lambda: not any(Path(f"/proc/{each}").exists() for each in left))
        assert time.monotonic() - began < 60
    assert folder.read(run)["status"] == "failed"
    assert "the coordinator at 127.0.0.1:" in folder.read(run)["error"]

    status, out, err = output_of("resume", run, "--json", **SLOW)
    assert status == 0, err
    require_exact(run, result(out))


def test_gossip_goes_on_when_a_worker_halts_and_comes_back(tmp_path):
    recipe, run = recipe_in(tmp_path, 110, "gossip"), tmp_path / "run"
    with started("run", recipe, "--workers", 3, "--elastic", "--out", run, "--json", **SLOW) as process:
        until(lambda: step_of(run) >= 10)
        halted = members(run)[1]
        os.kill(halted, signal.SIGSTOP)
        until(lambda: len([each for each in elastic.events(run) if "stall" in each]) >= 1)
        os.kill(halted, signal.SIGCONT)
        out, err = process.communicate(timeout=200)
    assert process.returncode == 0, err
    told = result(out)
    assert told["epochs"] == 3
    epochs = [each for each in elastic.events(run) if "epoch" in each]
    until_steps = [each["step"] for each in epochs[1:]] + [told["steps"]]
    pairs = zip(epochs, until_steps, strict=True)
    assert told["samples"] == sum((end - each["step"]) * 8 * len(each["members"]) for each, end in pairs)


class Nothing:
    """A run of which nothing is kept."""

    asked = None

    def told(self, text: str) -> None: ...


def test_a_group_that_was_not_built_leaves_no_trace(monkeypatch):
    monkeypatch.setenv("GLOO_SOCKET_IFNAME", "lo")
    coordinator = Coordinator("127.0.0.1", minimum=1)
    coordinator.store.set("first", "1")
    engine = Elastic(Settings(coordinator.address), Nothing(), nothing(), Nothing())  # type: ignore[arg-type]
    try:
        for name in ("nobody", None, "nobody", None):
            alone = engine._membership.agree(0, 5.0, lambda seconds: None)
            others = () if name is None else (Member(name, "host", 0, 0),)
            epoch = Epoch(alone.number, alone.stamp, (*alone.members, *others), 0)
            engine._view = View(epoch, engine._state, engine._break_off)
            engine._watch.begin(engine._view)
            if name is None:
                node = engine._join(epoch)
                assert dist.distributed_c10d._get_default_group().group_name == "0"
                assert node.all_reduce(torch.ones(1)).wait().tolist() == [1]
            else:
                with pytest.raises(Over, match=r"rank 0 \(.*\) could not join: "):
                    engine._join(epoch)
            engine._leave()
    finally:
        engine._watch.close()
        engine._membership.close()
        coordinator.close()


def test_who_comes_when_the_run_is_finished_does_not_begin_it_again():
    coordinator = Coordinator("127.0.0.1", minimum=1)
    coordinator.store.set("first", "1")
    coordinator.store.set("finished", "")
    settings = Settings(coordinator.address)
    Elastic(settings, Nothing(), nothing(), Nothing()).run(lambda node: pytest.fail("it began"))  # type: ignore[arg-type]
    coordinator.close()
