from __future__ import annotations

import torch

from quorate.codecs.identity import Identity
from quorate.rand import At, Rand
from quorate.wire import Wire


def test_copies_nothing_and_changes_no_fact():
    x, at = torch.arange(3.0), At(0, 0, 1, Rand(0))
    head, side, state = Identity().encode(x, {}, at)
    assert head is x
    assert (side, state) == ((), {})
    assert Identity().decode(head, side, torch.zeros(3), at) is x
    assert Identity().wire(Wire(noisy=True)) == Wire(noisy=True)
