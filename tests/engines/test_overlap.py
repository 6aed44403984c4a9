from __future__ import annotations

import pytest

from tests.forked import as_torchrun


@pytest.mark.processes
def test_overlap_the_ddp_hook_and_driven_loops_have_ddps_bits(tmp_path):
    # What is checked stands in overlap_program.py, which every rank runs; one start of two processes serves all.
    assert as_torchrun("tests.engines.overlap_program", 2, tmp_path).count("all is well") == 2
