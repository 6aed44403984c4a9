from __future__ import annotations

import os
import re
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

EXAMPLES = Path(__file__).parents[1] / "examples"


def run(command: list[str], folder: Path) -> str:
    done = subprocess.run(
        [sys.executable, "-m", *command],
        cwd=folder,
        env=os.environ | {"OMP_NUM_THREADS": "1"},
        capture_output=True,
        text=True,
        timeout=200,
        check=False,
    )
    assert done.returncode == 0, done.stdout + done.stderr
    return done.stdout


def test_a_task_of_ones_own_is_learned(tmp_path):
    for name in ("own_task.py", "own_task.toml"):
        shutil.copy(EXAMPLES / name, tmp_path)
    printed = run(["quorate", "run", "own_task.toml"], tmp_path)
    found = re.search(r"test accuracy ([0-9.]+)", printed)
    assert found is not None
    assert float(found[1]) >= 0.95


def on_two_processes(words: list[str], folder: Path) -> None:
    """Run an example that prints a line per rank: both end with one model that has learned."""
    printed = run(["torch.distributed.run", "--standalone", "--nproc-per-node", "2", *words], folder)
    ranks = re.findall(r"rank (\d): test accuracy ([0-9.]+), parameters add up to ([-0-9.]+)", printed)
    assert sorted(rank for rank, _, _ in ranks) == ["0", "1"]
    assert len({total for _, _, total in ranks}) == 1
    assert all(float(accuracy) > 0.9 for _, accuracy, _ in ranks)


@pytest.mark.processes
def test_a_loop_of_ones_own_trains_one_model_on_two_processes(tmp_path):
    on_two_processes([str(EXAMPLES / "own_loop.py")], tmp_path)


@pytest.mark.processes
@pytest.mark.parametrize("buckets", [[], ["several"]])
def test_a_ddp_script_gains_a_codec_by_two_changed_lines(buckets, tmp_path):
    on_two_processes([str(EXAMPLES / "ddp_hook.py"), *buckets], tmp_path)
    marked = [line for line in (EXAMPLES / "ddp_hook.py").read_text().splitlines() if "hook" in line and "# " in line]
    assert [line[-3:] for line in marked] == ["# 1", "# 2"]


def test_examples_are_short():
    for path in EXAMPLES.glob("*.py"):
        assert len(path.read_text().splitlines()) <= 40, path.name
