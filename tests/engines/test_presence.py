from __future__ import annotations

from functools import partial
from math import inf

from hypothesis import given
from hypothesis import strategies as st

from quorate.availability.on_and_off import on_and_off
from quorate.cluster import Cluster, Event
from quorate.engines.presence import Presences
from quorate.rand import Rand

SIZE = 8
EVENTS = Cluster(
    event=(
        Event(at=3.0, kind="crash", ranks=(1,)),
        Event(at=2.0, kind="crash", ranks=(2,)),
        Event(at=6.0, kind="join", ranks=(2,)),
        Event(at=4.0, kind="cut", ranks=(3, 4), lasts=3.0),
        Event(at=4.0, kind="cut", ranks=(SIZE,), others=(5,), lasts=0.5),
    ),
    detection=1.0,
)
COMES_AND_GOES = partial(on_and_off, up=2.0, down=2.0)


def test_crashes_and_long_cuts_are_noticed_after_a_while():
    presences = Presences(SIZE, EVENTS, Rand(0))
    gone = {time: sorted(set(range(SIZE)) - set(presences.there(time))) for time in (0.0, 3.5, 4.5, 5.5, 6.5, 7.5)}
    assert gone == {0.0: [], 3.5: [2], 4.5: [1, 2], 5.5: [1, 2, 3, 4], 6.5: [1, 3, 4], 7.5: [1]}


def test_work_comes_to_nothing_when_the_machine_stops_which_is_told_later():
    presences = Presences(SIZE, EVENTS, Rand(0))
    assert presences.loss(1, 0.0)[:2] == (3.0, 4.0)
    assert presences.loss(1, 3.5)[:2] == (3.5, 4.0)  # asked when it has crashed, but nobody knows
    assert presences.loss(2, 6.5).at == inf
    assert presences.loss(5, 0.0).at == inf  # cut off, but not for long enough to be noticed
    assert presences.loss(3, 4.2)[:2] == (5.0, 5.0)


@given(st.lists(st.floats(0, 40), min_size=1, max_size=8).map(sorted), st.integers(0, 20))
def test_who_is_there_is_what_everyones_availability_and_machine_say(times, seed):
    presences = Presences(SIZE, EVENTS, Rand(seed), COMES_AND_GOES)
    ways = [COMES_AND_GOES(client, Rand(seed)) for client in range(SIZE)]
    away = {1: [(4.0, inf)], 2: [(3.0, 6.0)], 3: [(5.0, 7.0)], 4: [(5.0, 7.0)]}

    def there(client, time):
        return ways[client].present(time) and not any(a <= time < b for a, b in away.get(client, ()))

    for time in times:
        expected = [client for client in range(SIZE) if there(client, time)]
        assert presences.there(time) == expected
        arrival = presences.next_arrival(time, set())
        absent = [client for client in range(SIZE) if client not in expected]
        assert arrival > time
        if arrival < inf:
            assert any(there(client, arrival) for client in absent)
            middle = (time + arrival) / 2
            assert not any(there(client, middle) for client in absent) or middle in (time, arrival)


def test_those_at_work_stay_if_they_finish_first():
    goes = Presences(SIZE, Cluster(), Rand(0), COMES_AND_GOES)
    stays = Presences(SIZE, Cluster(), Rand(0), COMES_AND_GOES, lasting=True)
    client = goes.there(0.0)[0]
    assert goes.loss(client, 0.0).at < inf
    assert stays.loss(client, 0.0).at == inf
