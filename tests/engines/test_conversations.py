from __future__ import annotations

import json
import re
import sys
from collections import deque

import pytest

from quorate.engines.conversations import InOrder
from quorate.engines.launch import launch
from quorate.errors import RunError

FINE = {"told": True, "threads": []}


def tell(folder, experiment, size, may_leave=()):
    """Return what each rank tells of an experiment; None of one that was killed."""
    words = ["-m", "tests.engines.gatherers"]
    launch(
        [
            [sys.executable, *words, str(rank), str(size), str(folder / "store"), str(folder), experiment]
            for rank in range(size)
        ],
        folder,
        may_leave,
    )
    paths = [folder / f"told-{rank}.json" for rank in range(size)]
    told = [json.loads(path.read_text()) if path.exists() else None for path in paths]
    assert all(each["seconds"] < 100 for each in told if each)
    return [each and {key: each[key] for key in ("told", "threads")} for each in told]


@pytest.mark.usefixtures("forked_workers")
@pytest.mark.processes
@pytest.mark.parametrize("size", [2, 3])
@pytest.mark.parametrize("experiment", ["one_after_the_other", "several_under_way", "of_several_likes"])
def test_ragged_messages_are_gathered(tmp_path, experiment, size):
    assert tell(tmp_path, experiment, size) == [FINE] * size


@pytest.mark.usefixtures("forked_workers")
@pytest.mark.processes
@pytest.mark.parametrize(
    ("experiment", "says"),
    [
        ("one_says_too_much", "rank 1 sent float32[*] with [11] rows, but there are at most [10]"),
        ("one_says_something_else", "expected float32[*] from rank 1, but was sent something else"),
    ],
)
def test_a_message_that_is_not_expected_is_refused_by_rank_and_step(tmp_path, experiment, says):
    told = tell(tmp_path, experiment, 3)
    assert [told[rank]["told"] for rank in (0, 2)] == [f"RunError: rank {rank}, step 1: {says}" for rank in (0, 2)]
    assert [each["threads"] for each in told] == [[]] * 3


@pytest.mark.usefixtures("forked_workers")
@pytest.mark.processes
def test_gathers_that_a_peer_leaves_fail_and_name_it(tmp_path):
    killed = tell(tmp_path, "one_is_killed", 3, may_leave={1})
    assert killed[1] is None
    for rank in (0, 2):
        second, first = killed[rank]["told"]
        assert second == first
        assert second.startswith(f"PeerError: rank {rank} (")
        assert re.search(r"step 1: all_gather failed (at once|after \d)", second)
        assert "rank 1" in second
        assert "[rank 1 has left: " in second
        assert not second.endswith("too late")
        assert killed[rank]["threads"] == []


@pytest.mark.usefixtures("forked_workers")
@pytest.mark.processes
def test_a_gather_with_one_whose_program_has_ended_fails_at_once(tmp_path):
    told = tell(tmp_path, "one_has_ended", 2)
    (said,) = told[0]["told"]
    assert re.search(r"all_gather failed (at once|after \d)", said)
    assert "rank 1" in said
    assert "has ended" in said
    assert not said.endswith("too late")


@pytest.mark.usefixtures("forked_workers")
@pytest.mark.processes
def test_an_error_with_gathers_under_way_ends_both_sides(tmp_path):
    """What was sent before arrives; the connection then ends, and with it the threads."""
    told = tell(tmp_path, "one_fails_with_gathers_under_way", 2)
    assert told[1] == {"told": "a bad sample", "threads": []}
    arrived, said = told[0]["told"]
    assert arrived is True
    assert "a bad sample" in said
    assert told[0]["threads"] == []


def test_what_was_begun_first_is_finished_first():
    done, order = [], InOrder()
    numbers = [order.add(lambda i=i: done.append(i)) for i in range(4)]
    for number in (numbers[2], numbers[0], numbers[3]):
        order.through(number)
    assert done == [0, 1, 2, 3]
    assert order._left == deque()


def test_what_comes_after_a_failure_fails_too():
    done, order = [], InOrder()

    def fails():
        raise RunError("rank 1 has left")

    numbers = [order.add(each) for each in (lambda: done.append(0), fails, lambda: done.append(2))]
    for number in (2, 1, 0, 1, 2):
        if number == 0:
            order.through(numbers[0])
        else:
            with pytest.raises(RunError, match="rank 1 has left"):
                order.through(numbers[number])
    assert done == [0]
