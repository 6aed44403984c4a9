from __future__ import annotations

import pytest
import torch

from quorate.errors import DataError, RecipeError
from quorate.partitions.natural import natural
from quorate.rand import Rand
from quorate.tasks.adult import adult
from quorate.tasks.files.census import CATEGORIES
from tests.tasks.learning import measures_after, shuffled
from tests.tasks.test_census import ROW, UNKNOWN

FILES = ("adult/adult.data", "adult/adult.test")


@pytest.fixture
def folder(tmp_path):
    """People whose income is told by their education."""
    (tmp_path / "adult").mkdir()
    rich = ROW.replace("Bachelors, 13", "Doctorate, 16").replace("<=", ">").replace("Adm-clerical", "Prof-specialty")
    for name in FILES:
        (tmp_path / name).write_text(f"{ROW}\n{rich}\n{UNKNOWN}\n" + f"{ROW}\n{rich}\n" * 20)
    return tmp_path


def test_a_person_is_five_numbers_of_the_order_of_1_and_a_1_for_each_known_category(folder):
    task = adult(data=folder)
    assert task.train.x.shape == (43, 104)
    assert task.train.x.dtype == torch.float32
    assert task.train.x[:, :5].abs().max() < 4
    assert task.train.x[0, :5].tolist() == pytest.approx([-1 / 15, 1.0, 0.0, 0.7684, 0.0], abs=1e-4)
    assert set(task.train.x[:, 5:].unique().tolist()) == {0.0, 1.0}
    assert task.train.x[:3, 5:].sum(dim=1).tolist() == [8, 8, 5]
    assert task.train.y[:3].tolist() == [0, 1, 1]


def test_a_person_is_the_same_whatever_the_others_are(folder):
    before = adult(data=folder).train.x[:3]
    (folder / FILES[0]).write_text(f"{ROW.replace('39', '90')}\n{UNKNOWN}\n")
    assert torch.equal(adult(data=folder).train.x[1], before[2])


@pytest.mark.parametrize(("institution", "keys"), [("occupation", 3), ("sex", 2), ("education", 3)])
def test_institutions_are_whole(institution, keys, folder):
    task = adult(data=folder, institution=institution)
    assert len(task.train.key.unique()) == keys
    assert int(task.train.key.max()) <= len(CATEGORIES[institution])
    shards = natural(task.train, keys, Rand(0))
    assert [len(task.train.key[shard].unique()) for shard in shards] == [1] * keys
    assert task.train.key[2] == (len(CATEGORIES["occupation"]) if institution == "occupation" else task.train.key[2])


@pytest.mark.parametrize(("hidden", "parameters"), [(0, 2 * 105), (4, 4 * 105 + 2 * 5)])
def test_incomes_are_learned(hidden, parameters, folder):
    task = adult(data=folder, hidden=hidden)
    assert sum(p.numel() for p in task.model().parameters()) == parameters
    assert measures_after(task, shuffled(43, 10) * 20, lr=0.05)["accuracy"] == 1


@pytest.mark.parametrize("hidden", [-1, 2**20])
def test_refuses_numbers_out_of_range(hidden, folder):
    with pytest.raises(RecipeError, match="hidden is a whole number from 0 to 65536"):
        adult(data=folder, hidden=hidden)


def test_says_which_file_is_missing(folder):
    (folder / FILES[1]).unlink()
    with pytest.raises(DataError) as error:
        adult(data=folder)
    assert error.value.problem == f"data folder `{folder}` holds no `{FILES[1]}`"


@pytest.mark.data(*FILES)
def test_adult_beats_always_no(data_folder):
    task = adult(data=data_folder, hidden=0)
    assert (len(task.train), len(task.test)) == (32_561, 16_281)
    assert (int(task.train.y.sum()), int(task.test.y.sum())) == (7_841, 3_846)
    assert len(task.train.key.unique()) == 15
    assert measures_after(task, shuffled(32_561, 200), lr=0.01)["accuracy"] > 0.84
