"""The ready recipes that read files: sound without them, and clear about which one is missing."""

from __future__ import annotations

import pytest

from quorate.errors import DataError
from quorate.recipe import load, parse
from tests.commands import RECIPES

FILES = {
    "movielens": "movielens/ratings.csv",
    "clicks": "clicks/criteo-tiny/train.tiny.csv",
    "shakespeare": "shakespeare/tiny_shakespeare.txt",
    "cifar10_resnet": "cifar10/cifar10_jpeg_12k.npz",
    "federated/mnist_2nn": "mnist/train-images-idx3-ubyte",
    "federated/mnist_2nn_shards": "mnist/train-images-idx3-ubyte",
    "federated/mnist_cnn": "mnist/train-images-idx3-ubyte",
    "federated/shakespeare": "shakespeare/tiny_shakespeare.txt",
    "federated/movielens": "movielens/ratings.csv",
    "federated/adult": "adult/adult.data",
}


@pytest.mark.parametrize("name", FILES)
def test_is_the_same_when_written_again(name):
    recipe = load(RECIPES / f"{name}.toml")
    assert parse(recipe.to_toml(), recipe.name, recipe.folder) == recipe


@pytest.mark.parametrize("name", FILES)
def test_says_which_file_is_missing_and_how_to_point_to_it(name, tmp_path):
    recipe = load(RECIPES / f"{name}.toml")
    with pytest.raises(DataError) as error:
        recipe.task(None)
    assert error.value.hint == "give --data FOLDER or set QUORATE_DATA"
    with pytest.raises(DataError) as error:
        recipe.task(tmp_path)
    assert error.value.problem.startswith(f"data folder `{tmp_path}` holds no `{FILES[name]}`")
    assert FILES[name] in (RECIPES / f"{name}.toml").read_text()
