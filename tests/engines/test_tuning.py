from __future__ import annotations

import pytest

from tests.forked import as_torchrun


@pytest.mark.processes
def test_measured_and_tuned_alike_on_all_workers(tmp_path):
    # What is checked stands in tuning_program.py, which every rank runs; one start of two processes serves all.
    assert as_torchrun("tests.engines.tuning_program", 2, tmp_path).count("all is well") == 2
