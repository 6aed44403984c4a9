from __future__ import annotations

import pytest

import quorate
from quorate.engines import ddp_hook as module
from tests.forked import as_torchrun


@pytest.mark.processes
def test_compressed_gradients_by_overlap_and_by_the_hook(tmp_path):
    # What is checked stands in compressed_program.py, which every rank runs; one start of two processes serves all.
    assert as_torchrun("tests.engines.compressed_program", 2, tmp_path).count("all is well") == 2


def test_the_package_offers_the_hook():
    assert quorate.ddp_hook is module.ddp_hook
    with pytest.raises(AttributeError, match="has no attribute `ddp_hok`"):
        _ = quorate.ddp_hok
