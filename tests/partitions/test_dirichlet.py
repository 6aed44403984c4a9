from __future__ import annotations

import numpy as np
import pytest
import torch

from quorate.errors import RecipeError
from quorate.partitions.dirichlet import _proportions, dirichlet
from quorate.rand import Rand
from quorate.tasks import Data

Y = torch.arange(4).repeat(250)


def shares(alpha: float) -> torch.Tensor:
    """Each class's share per worker, (workers, classes)."""
    parts = dirichlet(Data(Y, Y), 5, Rand(0), alpha=alpha)
    return torch.stack([Y[part].bincount(minlength=4) for part in parts]) / 250


def test_a_large_alpha_divides_evenly():
    assert torch.allclose(shares(1e12), torch.full((5, 4), 0.2), atol=0.005)


@pytest.mark.parametrize("alpha", [1e-3, 1e-12, 1e-300])
def test_a_small_alpha_gives_each_class_to_one_worker(alpha):
    assert (shares(alpha).amax(dim=0) > 0.98).all()


@pytest.mark.parametrize("alpha", [0.05, 0.5, 3.0])
def test_proportions_have_the_moments_of_the_distribution(alpha):
    chance, k = np.random.default_rng(0), 4
    drawn = np.stack([_proportions(chance, k, alpha) for _ in range(20_000)])
    assert np.allclose(drawn.sum(axis=1), 1)
    assert np.allclose(drawn.mean(axis=0), 1 / k, atol=0.015)
    assert np.allclose(drawn.var(axis=0), (1 / k) * (1 - 1 / k) / (k * alpha + 1), rtol=0.05)


def test_nobody_stays_without_a_sample():
    y = torch.zeros(50, dtype=torch.int64)
    assert sorted(len(part) for part in dirichlet(Data(y, y), 50, Rand(3), alpha=0.01)) == [1] * 50


@pytest.mark.parametrize("alpha", [0.0, -1.0, float("nan"), float("inf")])
def test_refuses_an_alpha_that_is_no_positive_number(alpha):
    with pytest.raises(RecipeError) as error:
        dirichlet(Data(Y, Y), 5, Rand(0), alpha=alpha)
    assert str(error.value) == f"alpha is a positive, finite number; got {alpha}\nhint: set alpha = 0.5"


def test_refuses_targets_that_are_no_labels():
    with pytest.raises(RecipeError) as error:
        dirichlet(Data(Y, Y.double()), 5, Rand(0))
    assert error.value.problem == (
        "`dirichlet` divides by class label, but the targets are torch.float64 of shape (1000,)"
    )
