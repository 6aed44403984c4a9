from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from quorate.engines.waiting import Started, Waiting, done, drive, together


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


class Log:
    """Calls that tell when they begin and when somebody has waited for them."""

    def __init__(self):
        self.told = []

    def call(self, name, result=None, error=None):
        self.told.append(f"begin {name}")

        def block():
            self.told.append(f"end {name}")
            if error is not None:
                raise error

        return Waiting(lambda: result, block)


def meetings(log, name, count):
    async def program():
        return [await log.call(f"{name}{number}", number) for number in range(count)]

    return Started(program())


def test_what_is_started_runs_to_its_first_wait():
    log = Log()
    started = meetings(log, "a", 1)
    assert log.told == ["begin a0"]
    assert not started.ended
    assert meetings(log, "b", 0).ended


def test_further_meetings_of_all_are_under_way_together():
    log = Log()
    assert together([meetings(log, "a", 2), meetings(log, "b", 1), meetings(log, "c", 3)]) == [[0, 1], [0], [0, 1, 2]]
    assert log.told == [
        *["begin a0", "begin b0", "begin c0"],
        *["end a0", "begin a1", "end b0", "end c0", "begin c1"],
        *["end a1", "end c1", "begin c2", "end c2"],
    ]


@given(counts=st.lists(st.integers(0, 4), max_size=5))
def test_the_order_depends_on_nothing_but_what_is_started(counts):
    logs = [Log(), Log()]
    for log in logs:
        ends = together([meetings(log, str(place), count) for place, count in enumerate(counts)])
        assert ends == [list(range(count)) for count in counts]
    assert logs[0].told == logs[1].told


def test_what_a_wait_raises_is_raised_in_the_coroutine():
    log = Log()

    async def careful():
        try:
            await log.call("lost", error=KeyError("gone"))
        except KeyError:
            return await log.call("again", 5)

    async def careless():
        await log.call("lost", error=KeyError("gone"))

    assert together([Started(careful()), meetings(log, "a", 1)]) == [5, [0]]
    with pytest.raises(KeyError):
        together([meetings(log, "a", 2), Started(careless())])
