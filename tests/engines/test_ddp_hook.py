from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest

import quorate
from quorate.engines import ddp_hook as module

ROOT = Path(__file__).parents[2]


@pytest.mark.processes
def test_compressed_gradients_by_overlap_and_by_the_hook():
    # What is checked stands in compressed_program.py, which every rank runs; one start of two processes serves all.
    command = [sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc-per-node", "2"]
    done = subprocess.run(
        [*command, "-m", "tests.engines.compressed_program"],
        cwd=ROOT,
        env=os.environ | {"OMP_NUM_THREADS": "1"},
        capture_output=True,
        text=True,
        timeout=200,
        check=False,
    )
    assert done.returncode == 0, done.stdout + done.stderr
    assert done.stdout.count("all is well") == 2


def test_the_package_offers_the_hook():
    assert quorate.ddp_hook is module.ddp_hook
    with pytest.raises(AttributeError, match="has no attribute `ddp_hok`"):
        _ = quorate.ddp_hok
