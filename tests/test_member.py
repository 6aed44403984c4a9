from __future__ import annotations

import pytest

from quorate.errors import RecipeError, RunError
from quorate.member import Member, require_elastic
from quorate.recipe import load
from tests.commands import write_recipe


def test_a_synchronous_recipe_can_be_run_elastically(tmp_path):
    require_elastic(load(write_recipe(tmp_path)), 4)


@pytest.mark.parametrize(
    ("changes", "says"),
    [
        ({"partition": {"name": "by_size"}}, "can't keep the partition `by_size`"),
        ({"processes": {"device": "cuda"}}, "an elastic run goes over gloo, on the CPU"),
    ],
)
def test_what_can_not_be_is_refused_before_anything_starts(tmp_path, changes, says):
    with pytest.raises(RecipeError, match=says):
        require_elastic(load(write_recipe(tmp_path, changes)), 4)


def test_a_store_of_something_else_is_not_joined():
    coordinator = pytest.importorskip("quorate.engines.membership").Coordinator("127.0.0.1", 1)
    try:
        coordinator.store.set("run", '{"folder": 3}')
        with pytest.raises(RunError, match=f"{coordinator.address} does not tell which run it is of"):
            Member(coordinator.address)
    finally:
        coordinator.close()
