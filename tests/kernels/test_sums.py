from __future__ import annotations

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from tests.kernels.devices import DEVICE, drawn, dtypes, kernel, lengths

sums = kernel("sums")


@given(d=lengths, seed=st.integers(0, 99), dtype=dtypes, offset=st.integers(0, 9))
@settings(max_examples=20)
def test_sums_are_those_of_double_precision(d, seed, dtype, offset):
    x = drawn(d, seed, dtype, offset)
    wide = x.double()
    total, square = sums.moments(x)
    assert total == pytest.approx(float(wide.sum()), abs=1e-5 * float(wide.abs().sum()))
    assert square == pytest.approx(float(wide.square().sum()), rel=1e-5)
    total, top = sums.magnitudes(x)
    assert total == pytest.approx(float(wide.abs().sum()), rel=1e-5)
    assert top == float(wide.abs().max())


@pytest.mark.parametrize("programs", [1, 2, 5])
def test_every_entry_counts_once_however_many_programs_there_are(monkeypatch, programs):
    monkeypatch.setattr(sums, "_PROGRAMS", programs)
    for d in (4 * 4096, 4 * 4096 + 1, 5):
        assert sums.moments(torch.full((d,), 2.0, device=DEVICE)) == (2.0 * d, 4.0 * d)
        assert sums.magnitudes(torch.full((d,), -2.0, device=DEVICE)) == (2.0 * d, 2.0)
