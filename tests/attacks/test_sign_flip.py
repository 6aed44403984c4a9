from __future__ import annotations

import pytest
import torch

from quorate.aggregators.mean import mean
from quorate.attacks.sign_flip import SignFlip
from tests.attacks.lab import meeting


def test_averaging_goes_a_shorter_way_in_the_right_direction():
    seen = meeting(45, 10, 8)
    forged = [SignFlip().forge(each) for each in seen]
    honest = seen[0].known.mean(dim=0)
    torch.testing.assert_close(mean(torch.cat([seen[0].known, torch.stack(forged)])), honest * (1 - 20 / 45))


def test_is_as_long_as_the_honest_mean():
    seen = meeting(7, 2, 8)[0]
    assert float(SignFlip().forge(seen).norm()) == pytest.approx(float(seen.known.mean(dim=0).norm()))
