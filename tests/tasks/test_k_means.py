from __future__ import annotations

import pytest
import torch

from quorate.errors import DataError, RecipeError
from quorate.tasks.k_means import Centroids, k_means, nearest_loss


def test_outputs_are_squared_distances():
    x, w = torch.randn(6, 3, dtype=torch.float64), torch.randn(2, 3, dtype=torch.float64)
    slow = torch.tensor([[float(((row - centre) ** 2).sum()) for centre in w] for row in x], dtype=torch.float64)
    output = Centroids(w)(x)
    assert torch.allclose(output, slow)
    assert nearest_loss(output, torch.zeros(6)) == output.amin(dim=1).mean()


def test_starts_at_distinct_rows_the_same_every_time():
    task = k_means(file="generated", features=3, samples=40, clusters=7)
    (start,) = task.model().parameters()
    assert start.shape == torch.unique(start, dim=0).shape == (7, 3)
    assert all((task.train.x == row).all(dim=1).any() for row in start)
    again = k_means(file="generated", features=3, samples=40, clusters=7)
    assert torch.equal(start, next(again.model().parameters()))


def test_models_do_not_share_their_centroids():
    task = k_means(file="generated", features=3)
    with torch.no_grad():
        next(task.model().parameters()).zero_()
    assert next(task.model().parameters()).abs().sum() > 0


def test_gradient_descent_lowers_the_loss():
    task = k_means(file="generated", features=5)
    model = task.model()
    losses = []
    for _ in range(30):
        loss = task.loss(model(task.train.x), task.train.y)
        losses.append(float(loss.detach()))
        (gradient,) = torch.autograd.grad(loss, list(model.parameters()))
        with torch.no_grad():
            next(model.parameters()).sub_(gradient)
    assert losses[-1] < 0.8 * losses[0]
    assert losses == sorted(losses, reverse=True)


def test_refuses_no_clusters():
    with pytest.raises(RecipeError) as error:
        k_means(file="generated", clusters=0)
    assert str(error.value) == "clusters is the number of centroids, at least 1; got 0\nhint: set clusters = 4"


def test_refuses_more_clusters_than_distinct_rows(tmp_path):
    (tmp_path / "a").write_text("1 1:1\n0 2:1\n0 2:1\n")
    with pytest.raises(DataError) as error:
        k_means(data=tmp_path, file="a", test_file="a", clusters=3)
    assert str(error.value) == "`a` has only 2 distinct rows\nhint: set clusters = 2"


@pytest.mark.data("libsvm/a9a", "libsvm/a9a.t")
def test_reads_a9a(data_folder):
    task = k_means(data=data_folder)
    assert task.model()(task.test.x[:3]).shape == (3, 4)
