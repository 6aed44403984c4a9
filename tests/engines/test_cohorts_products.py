from __future__ import annotations

import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from quorate.engines.cohorts_products import plus_product, times
from tests.tiny import randn


@given(
    k=st.integers(1, 90),
    o=st.integers(1, 300),
    i=st.integers(1, 300),
    turned=st.booleans(),
    cut=st.booleans(),
    seed=st.integers(0, 99),
)
@settings(deadline=None, max_examples=40)
def test_products_are_products_however_their_factors_lie(k, o, i, turned, cut, seed):
    x, weight, bias = randn(k, i + 3, seed=seed), randn(o, i + 3, seed=seed + 1), randn(o, seed=seed + 2)
    left, total = randn(k, o, seed=seed + 3), randn(o, i + 3, seed=seed + 4)
    if turned:
        x, weight = x.T.contiguous().T, weight.T.contiguous().T
    if cut:
        x, weight, total = x[:, :i], weight[:, :i], total[:, :i]
    before = total.clone()
    wanted = (x.double() @ weight.double().T).float()
    torch.testing.assert_close(times(x, weight), wanted, rtol=1e-4, atol=1e-4)
    torch.testing.assert_close(times(x, weight, bias), wanted + bias, rtol=1e-4, atol=1e-4)
    added = (total.double() + left.double().T @ x.double()).float()
    torch.testing.assert_close(plus_product(total, left, x), added, rtol=1e-4, atol=1e-4)
    assert torch.equal(total, before)
