"""Laws of every topology; a new file in `quorate/topologies` is tested unasked."""

from __future__ import annotations

import pytest
import torch

from quorate import parts
from quorate.topologies import mixing_matrix

NAMES = sorted(parts.names("topology"))
SIZES = [*range(1, 10), 16, 33]


def topology(name):
    return parts.build("topology", {"name": name})


def test_the_folder_is_found():
    assert "ring" in NAMES


@pytest.mark.parametrize("name", NAMES)
@pytest.mark.parametrize("size", SIZES)
@pytest.mark.parametrize("step", [0, 1, 7])
def test_weights_are_a_mean_over_peers_in_the_order_of_ranks_with_the_worker_itself(name, size, step):
    for rank in range(size):
        neighbours = topology(name)(rank, size, step)
        peers = [peer for peer, _ in neighbours]
        assert peers == sorted(set(peers))
        assert rank in peers
        assert set(peers) <= set(range(size))
        assert all(weight > 0 for _, weight in neighbours)
        assert sum(weight for _, weight in neighbours) == pytest.approx(1, abs=1e-12)


@pytest.mark.parametrize("name", NAMES)
@pytest.mark.parametrize("size", SIZES)
@pytest.mark.parametrize("step", [0, 1, 7])
def test_who_hears_is_heard_and_the_mean_of_all_is_kept(name, size, step):
    mixing = mixing_matrix(topology(name), size, step)
    assert torch.equal(mixing != 0, (mixing != 0).T)
    torch.testing.assert_close(mixing.sum(dim=0), torch.ones(size, dtype=torch.float64))
    torch.testing.assert_close(mixing.sum(dim=1), torch.ones(size, dtype=torch.float64))


@pytest.mark.parametrize("name", NAMES)
@pytest.mark.parametrize("size", range(1, 10))
def test_mixing_brings_everybody_to_the_mean(name, size):
    together = torch.eye(size, dtype=torch.float64)
    for step in range(40 * size):
        together = mixing_matrix(topology(name), size, step) @ together
    spread = (together - 1 / size).abs().max()
    assert spread < 0.5 / size
