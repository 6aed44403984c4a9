from __future__ import annotations

from pathlib import Path

import pytest
import torch
import torch.distributed as dist
from torch.distributed import HashStore

from quorate import checkpoint, folder
from quorate import run as runs
from quorate.engines import PeerError
from quorate.recipe import load
from quorate.worker import _agreed, _together, work
from tests.commands import has_checkpoint, kill, metrics, output_of, result, started, until, write_task

TORCHRUN = ("torch.distributed.run", "--standalone", "--nproc-per-node", "2")


def ranks_below(launcher: int) -> dict[int, int]:
    """Return the process ids of torchrun's workers, by rank."""
    found = {}
    for place in Path("/proc").glob("[0-9]*"):
        try:
            parent = int((place / "stat").read_text().rpartition(")")[2].split()[1])
            variables = dict(pair.split(b"=", 1) for pair in (place / "environ").read_bytes().split(b"\0") if pair)
        except OSError:
            continue
        if parent == launcher and b"RANK" in variables:
            found[int(variables[b"RANK"])] = int(place.name)
    return found


@pytest.mark.processes
def test_torchrun_gives_the_same_bits(tmp_path):
    recipe, run = write_task(tmp_path, 12), tmp_path / "run"
    words = ("-m", "quorate", "run", recipe, "--out", run, "--json")
    status, out, err = output_of(*words, module=TORCHRUN, OMP_NUM_THREADS=1)
    assert status == 0, err
    whole = runs.simulate(load(recipe), 2, tmp_path / "whole")
    assert result(out)["parameters_sha256"] == whole["parameters_sha256"]
    assert result(out)["bytes"] == whole["bytes"]
    assert folder.read(run)["status"] == "finished"
    assert [line["step"] for line in metrics(run)] == [line["step"] for line in metrics(tmp_path / "whole")]


@pytest.mark.processes
def test_torchrun_restarts_a_killed_worker_and_the_run_goes_on(tmp_path):
    recipe, run = write_task(tmp_path, 60), tmp_path / "run"
    words = ("--max-restarts", "1", "-m", "quorate", "run", recipe, "--out", run, "--json")
    variables = {"OMP_NUM_THREADS": 1, "SECONDS_PER_LOSS": 0.05}
    with started(*words, module=TORCHRUN, **variables) as process:
        until(has_checkpoint(run, rank=1))
        killed = ranks_below(process.pid)
        kill(killed[1])
        out, err = process.communicate(timeout=200)
    assert process.returncode == 0, err
    whole = runs.simulate(load(recipe), 2, tmp_path / "whole")
    assert result(out)["parameters_sha256"] == whole["parameters_sha256"]
    assert folder.read(run)["status"] == "finished"
    assert [line["step"] for line in metrics(run)] == [line["step"] for line in metrics(tmp_path / "whole")]


@pytest.fixture
def group(monkeypatch):
    """A process group of one."""
    monkeypatch.setenv("GLOO_SOCKET_IFNAME", "lo")
    dist.init_process_group("gloo", store=HashStore(), rank=0, world_size=1)
    yield
    dist.destroy_process_group()


@pytest.mark.usefixtures("group")
def test_goes_on_from_the_last_checkpoint(tmp_path):
    assert _agreed(tmp_path / "none", 0, 1) is None
    for step in (4, 8, 12):
        value = torch.tensor([float(step)])
        checkpoint.write(tmp_path, step, 0, 1, {"a": {"b": value}}, {0: {"c": value}}, {"step": step})
    found = _agreed(tmp_path, 0, 1)
    assert found is not None
    assert (found.step, float(found.shared["a"]["b"]), float(found.own[0]["c"])) == (12, 12.0, 12.0)
    assert found.facts == [{"step": 12}]


def test_what_torch_raises_becomes_an_error_of_a_peer():
    with pytest.raises(PeerError, match=r"rank 3 \(.*\): the ranks could not gather the trace \[connection closed\]"):  # noqa: SIM117
        with _together(3, "gather the trace"):
            raise RuntimeError("connection closed\nby peer")


def test_one_real_worker_gives_the_bits_of_one_simulated(monkeypatch, tmp_path):
    for name in ("GLOO_SOCKET_IFNAME", "NCCL_SOCKET_IFNAME"):
        monkeypatch.setenv(name, "lo")
    recipe = load(write_task(tmp_path, 10))
    run = folder.create(tmp_path / "run", recipe, "processes", 1, None, {})
    work(run, 0, 1, HashStore(), "127.0.0.1")
    assert not dist.is_initialized()
    told = folder.read(run)["result"]
    whole = runs.simulate(recipe, 1, tmp_path / "whole")
    assert [told[name] for name in ("parameters_sha256", "accuracy", "loss", "bytes")] == [
        whole[name] for name in ("parameters_sha256", "accuracy", "loss", "bytes")
    ]
    assert [line["step"] for line in metrics(run)] == [5, 10]
