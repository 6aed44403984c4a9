from __future__ import annotations

import torch
from hypothesis import given
from hypothesis import strategies as st

from quorate.partitions.iid import iid
from quorate.rand import Rand
from quorate.tasks import Data


@given(n=st.integers(1, 50), size=st.integers(1, 50), seed=st.integers(0, 10**6))
def test_sizes_differ_by_at_most_one(n, size, seed):
    n = max(n, size)
    sizes = [len(part) for part in iid(Data(torch.zeros(n), torch.zeros(n)), size, Rand(seed))]
    assert max(sizes) - min(sizes) <= 1


def test_every_worker_sees_every_class():
    y = torch.arange(10).repeat_interleave(100)
    for part in iid(Data(y, y), 4, Rand(0)):
        assert y[part].bincount(minlength=10).min() > 10
