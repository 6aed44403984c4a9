from __future__ import annotations

from functools import partial
from math import inf

import pytest
from hypothesis import given
from hypothesis import strategies as st

from quorate.availability.always import always
from quorate.availability.day_and_night import day_and_night
from quorate.availability.on_and_off import on_and_off
from quorate.availability.trace import trace
from quorate.errors import DataError, RecipeError
from quorate.rand import Rand

EVERY = [
    always,
    partial(day_and_night, there=7.0, period=24.0),
    partial(day_and_night, there=24.0, period=24.0),
    partial(on_and_off, up=3.0, down=5.0),
]
times = st.floats(0, 1e4)


@pytest.mark.parametrize("availability", EVERY, ids=["always", "day and night", "always day", "on and off"])
@given(client=st.integers(0, 50), time=times, share=st.floats(0, 1, exclude_max=True))
def test_nothing_changes_before_the_next_change(availability, client, time, share):
    presence = availability(client, Rand(1))
    change = presence.next_change(time)
    assert change > time
    if change < inf:
        between = min(time + share * (change - time), change)
        assert between == change or presence.present(between) == presence.present(time)
        assert presence.present(change) != presence.present(time)


@pytest.mark.parametrize("availability", EVERY, ids=["always", "day and night", "always day", "on and off"])
@given(client=st.integers(0, 50), asked=st.lists(times, min_size=2, max_size=5))
def test_the_order_of_questions_does_not_matter(availability, client, asked):
    one, other = availability(client, Rand(1)), availability(client, Rand(1))
    forwards = [(one.present(time), one.next_change(time)) for time in asked]
    assert [(other.present(time), other.next_change(time)) for time in reversed(asked)] == forwards[::-1]


def share_of_time(availability, clients=200, step=0.37, until=200.0):
    """Return the mean share of clients that are there."""
    ways = [availability(client, Rand(0)) for client in range(clients)]
    moments = [step * k for k in range(int(until / step))]
    return sum(way.present(time) for way in ways for time in moments) / (clients * len(moments))


def test_clients_are_there_for_their_share_of_the_day():
    assert abs(share_of_time(EVERY[1]) - 7 / 24) < 0.02


def test_clients_that_come_and_go_are_there_for_up_of_up_plus_down():
    assert abs(share_of_time(EVERY[3]) - 3 / 8) < 0.03


def test_without_spread_all_come_and_go_together():
    ways = [day_and_night(client, Rand(0), there=7.0, period=24.0, spread=0.0) for client in range(5)]
    assert {way.next_change(1.0) for way in ways} == {7.0}


@pytest.mark.parametrize(
    ("call", "says"),
    [
        (partial(day_and_night, there=0.0), "`there`"),
        (partial(day_and_night, there=30.0, period=24.0), "`there`"),
        (partial(day_and_night, spread=2.0), "`spread`"),
        (partial(on_and_off, up=0.0), "`up`"),
    ],
)
def test_settings_that_can_not_be_meant_are_refused(call, says):
    with pytest.raises(RecipeError, match=says):
        call(0, Rand(0))


CSV = "client,from,until\n0,0,10\n0,5,20\n\n2,30,40\n"
JSON = '{"client": 0, "from": 0, "until": 20}\n{"client": 2, "from": 30, "until": 40}\n'


@pytest.mark.parametrize("text", [CSV, JSON])
def test_a_trace_says_who_is_there(text, tmp_path):
    (tmp_path / "phones.csv").write_text(text)
    way = [trace(client, Rand(0), file="phones.csv", folder=tmp_path) for client in range(3)]
    assert [each.present(19.0) for each in way] == [True, False, False]
    assert [each.next_change(19.0) for each in way] == [20.0, inf, 30.0]
    assert [each.present(35.0) for each in way] == [False, False, True]


def test_a_trace_can_come_again(tmp_path):
    (tmp_path / "phones.csv").write_text("0,5,10\n1,35,45\n")
    way = [trace(client, Rand(0), file="phones.csv", folder=tmp_path, repeat=40.0) for client in range(2)]
    assert [way[0].present(time) for time in (4.0, 6.0, 46.0, 51.0)] == [False, True, True, False]
    assert [way[1].present(time) for time in (4.0, 6.0, 36.0, 41.0, 44.0, 46.0)] == [
        True,
        False,
        True,
        True,
        True,
        False,
    ]


@pytest.mark.parametrize("line", ["0,5", "0,7,5", "a,1,2", "-1,1,2", "0,nan,2", "{", '{"client": 1}', "0,1,2,3"])
def test_a_trace_that_can_not_be_meant_is_refused_by_line(line, tmp_path):
    (tmp_path / "bad.csv").write_text(f"0,1,2\n{line}\n")
    with pytest.raises(DataError, match="line 2"):
        trace(0, Rand(0), file="bad.csv", folder=tmp_path)


def test_a_trace_that_is_not_there_is_refused(tmp_path):
    with pytest.raises(DataError, match="can't be read"):
        trace(0, Rand(0), file="none.csv", folder=tmp_path)
