from __future__ import annotations

from math import inf

import torch.distributed as dist
from torch.distributed import HashStore

from quorate.adaptive import Link
from quorate.engines.link import measure
from quorate.engines.processes import ProcessNode


def test_one_worker_has_no_link_to_measure(monkeypatch):
    monkeypatch.setenv("GLOO_SOCKET_IFNAME", "lo")
    dist.init_process_group("gloo", store=HashStore(), rank=0, world_size=1)
    try:
        assert measure(ProcessNode()) == Link(1, inf, 0.0, 0.0)
    finally:
        dist.destroy_process_group()
