"""Orders of a client's samples: permutations that depend on nothing but their streams."""

import torch
from hypothesis import given
from hypothesis import strategies as st

from quorate.federated.shuffled import Shuffled
from quorate.rand import Rand


def shuffled(n: int, epochs: int, seed: int = 0) -> Shuffled:
    rand = Rand(seed)
    return Shuffled(torch.arange(n) * 7, [(rand, ("batch", epoch)) for epoch in range(epochs)])


@given(n=st.integers(0, 50), epochs=st.integers(0, 4), seed=st.integers(0, 9))
def test_each_epoch_is_a_permutation_of_the_shard(n, epochs, seed):
    orders = shuffled(n, epochs, seed)
    assert orders.lengths == [n] * epochs
    assert len(orders) == epochs
    for order in orders:
        assert order.sort().values.tolist() == (torch.arange(n) * 7).tolist()


def test_equal_streams_give_equal_orders_and_epochs_differ():
    first, again, other = shuffled(40, 2), shuffled(40, 2), shuffled(40, 2, seed=1)
    assert all(torch.equal(*pair) for pair in zip(first, again, strict=True))
    assert not torch.equal(first[0], first[1])
    assert not torch.equal(first[0], other[0])


def test_epochs_can_be_read_in_any_order():
    orders, backwards = shuffled(20, 3), shuffled(20, 3)
    assert [each.tolist() for each in orders[0:3]] == [
        each.tolist() for each in (backwards[2], backwards[1], backwards[0])
    ][::-1]
