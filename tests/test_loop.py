from __future__ import annotations

import pytest
import torch
from torch import nn

from quorate.errors import QuorateError
from quorate.loop import Driven
from quorate.programs.synchronous_sgd import synchronous_sgd


def test_an_optimizer_must_hold_all_trainable_parameters():
    # What loops compute is tested by two processes; see tests/engines/test_overlap.py.
    model = nn.Sequential(nn.Linear(2, 2), nn.Linear(2, 2))
    optimizer = torch.optim.SGD(model[0].parameters(), 0.1)
    with pytest.raises(QuorateError) as caught:
        Driven(model, optimizer, synchronous_sgd, node=None)
    assert str(caught.value) == (
        "the optimizer does not hold `1.weight`\nhint: make it from all of `model.parameters()`"
    )
