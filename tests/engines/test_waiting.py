from __future__ import annotations

import pytest

from quorate.engines.waiting import Waiting, done, drive


def test_blocks_once_and_keeps_the_result():
    told = []
    waiting = Waiting(lambda: told.append("finished") or 7, lambda: told.append("blocked"))
    assert (waiting.wait(), waiting.wait()) == (7, 7)
    assert told == ["blocked", "finished"]


def test_a_call_that_is_done_is_not_waited_for():
    async def program():
        return await done(3)

    with pytest.raises(StopIteration) as stop:
        program().send(None)
    assert stop.value.value == 3


def test_driving_blocks_where_a_coroutine_waits():
    told = []

    async def program():
        first = Waiting(lambda: 1, lambda: told.append("first"))
        second = Waiting(lambda: 2, lambda: told.append("second"))
        told.append("both begun")
        return await second + await first

    assert drive(program()) == 3
    assert told == ["both begun", "second", "first"]
