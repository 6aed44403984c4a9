from __future__ import annotations

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from quorate.engines.summation import RING, chunk_length, ring_sum
from tests.tiny import randn


def slow_ring_sum(rows: list[torch.Tensor]) -> list[float]:
    """Follow each chunk round the ring: from rank c - 1 it passes c - 2, c - 3, ..., and ends at c."""
    n, d = len(rows), len(rows[0])
    length, result = chunk_length(d, rows[0].element_size(), n), []
    for i in range(d):
        chunk = i // length
        total = rows[(chunk - 1) % n][i]
        for back in range(2, n + 1):
            total = total + rows[(chunk - back) % n][i]
        result.append(total)
    return result


@given(n=st.integers(3, RING), d=st.integers(1, 200), seed=st.integers(0, 999))
@settings(deadline=None, max_examples=30)
def test_agrees_with_a_chunk_s_way_round_the_ring(n, d, seed):
    rows = list(randn(n, d, seed=seed))
    assert torch.equal(ring_sum(rows), torch.stack(slow_ring_sum(rows)))


@given(n=st.sampled_from([1, 2, RING + 1, RING + 9]), d=st.integers(0, 50), seed=st.integers(0, 999))
@settings(deadline=None)
def test_two_workers_and_very_many_add_in_the_order_of_ranks(n, d, seed):
    rows = list(randn(n, d, seed=seed))
    total = rows[0]
    for row in rows[1:]:
        total = total + row
    assert torch.equal(ring_sum(rows), total)


@given(n=st.integers(1, RING + 5), d=st.integers(0, 60), seed=st.integers(0, 999), double=st.booleans())
@settings(deadline=None)
def test_any_order_is_the_same_within_rounding(n, d, seed, double):
    rows = randn(n, d, seed=seed, dtype=torch.float64 if double else torch.float32)
    order = torch.randperm(n, generator=torch.Generator().manual_seed(seed))
    epsilon = torch.finfo(rows.dtype).eps
    bound = 2 * n * epsilon * rows.double().abs().sum(dim=0)
    exact = rows.double().sum(dim=0)
    for given_rows in (rows, rows[order]):
        assert bool(((ring_sum(list(given_rows)).double() - exact).abs() <= bound).all())


@given(numel=st.integers(1, 3_000_000), size=st.integers(3, RING), element=st.sampled_from([1, 2, 4, 8]))
def test_chunks_cover_the_tensor(numel, size, element):
    assert chunk_length(numel, element, size) * size >= numel


@pytest.mark.parametrize("n", [1, 2, 3, RING, RING + 1])
def test_keeps_shape_and_dtype_and_writes_to_nothing(n):
    rows = [torch.full((2, 3), rank, dtype=torch.int64) for rank in range(n)]
    total = ring_sum(rows)
    assert (total.shape, total.dtype) == ((2, 3), torch.int64)
    assert bool((total == n * (n - 1) // 2).all())
    total.zero_()
    assert all(bool((row == rank).all()) for rank, row in enumerate(rows))


@given(
    n=st.integers(RING + 1, RING + 20),
    d=st.integers(1, 20),
    cut=st.integers(0, RING),
    seed=st.integers(0, 999),
)
@settings(deadline=None)
def test_rows_of_matrices_are_added_as_if_they_were_apart(n, d, cut, seed):
    generator = torch.Generator().manual_seed(seed)
    matrices = [torch.randn(rows, d, dtype=torch.float64, generator=generator) for rows in (cut, n - cut) if rows]
    scales = torch.rand(n, dtype=torch.float64, generator=generator).tolist()
    together = [row for matrix in matrices for row in matrix.unbind()]
    apart = [row.clone() for row in together]
    shuffled = [together[(7 * row) % n] if n % 7 else together[row] for row in range(n)]
    torch.testing.assert_close(ring_sum(together, scales), ring_sum(apart, scales), rtol=1e-12, atol=1e-12)
    slow = sum(row.clone() * scale for row, scale in zip(shuffled, scales, strict=True))
    torch.testing.assert_close(ring_sum(shuffled, scales), slow, rtol=1e-12, atol=1e-12)
