from __future__ import annotations

import pytest

from quorate.engines.group import group, under_torchrun
from quorate.errors import RunError


def test_says_which_variables_are_missing_and_how_to_start(monkeypatch):
    for name in ("RANK", "WORLD_SIZE", "MASTER_ADDR", "MASTER_PORT"):
        monkeypatch.delenv(name, raising=False)
    assert not under_torchrun()
    with pytest.raises(RunError) as caught, group():
        pass
    assert str(caught.value) == (
        "this process is not one of several workers: RANK, WORLD_SIZE, MASTER_ADDR, MASTER_PORT not set"
        "\nhint: torchrun --nproc-per-node 2 your_script.py"
    )
