from __future__ import annotations

import json
import threading
import time
from collections.abc import Callable, Iterator

import pytest
from torch.distributed import HashStore

from quorate.engines.membership import BEAT, GONE, Epoch, Member
from quorate.engines.watch import View, Watch
from tests.commands import until


def epoch(rank: int, *names: str, number: int = 1) -> Epoch:
    return Epoch(number, 1, tuple(Member(name, "host", 0, 0) for name in names), rank)


class Worker:
    """A member as its watch sees it."""

    def __init__(self, store: HashStore, name: str) -> None:
        self.watch, self.now, self.broken_off = Watch(store, name), (0, 0.0), threading.Event()

    def begin(self, of: Epoch, stuck_after: float = 60.0) -> View:
        view = View(of, lambda: self.now, self.broken_off.set, stuck_after)
        self.watch.begin(view)
        return view


@pytest.fixture
def worker() -> Iterator[Callable[[str], Worker]]:
    store, made = HashStore(), []

    def make(name: str) -> Worker:
        made.append(Worker(store, name))
        return made[-1]

    make.store = store  # type: ignore[attr-defined]
    yield make
    for each in made:
        each.watch.close()


def test_a_failure_is_told_to_all_and_ends_what_they_wait_for(worker):
    a, b = worker("a"), worker("b")
    views = [a.begin(epoch(0, "a", "b")), b.begin(epoch(1, "a", "b"))]
    b.now = (3, 1.0)
    a.watch.end("rank 0 lost its peer")
    until(b.broken_off.is_set)
    assert [view.over for view in views] == ["rank 0 lost its peer"] * 2
    assert views[1].finished_at(3) == "rank 0 lost its peer"


def test_a_member_that_computes_is_not_broken_off(worker):
    a, b = worker("a"), worker("b")
    a.begin(epoch(0, "a", "b"))
    view = b.begin(epoch(1, "a", "b"))
    a.watch.end("over")
    until(lambda: view.over)
    time.sleep(2 * BEAT)
    assert not b.broken_off.is_set()


def test_a_member_that_falls_silent_is_named(worker):
    a, b = worker("a"), worker("b")
    view = a.begin(epoch(0, "a", "b"))
    b.begin(epoch(1, "a", "b"))
    time.sleep(3 * BEAT)
    assert view.alive() == ["a", "b"]
    b.watch.close()
    until(lambda: view.over)
    assert view.over == "nothing is heard of b"
    assert view.alive() == ["a"]
    a.watch.rest()
    time.sleep(GONE)
    assert view.alive() == ["a"]


def test_a_newcomer_is_admitted_at_a_step_that_all_come_to(worker):
    a, b, c = worker("a"), worker("b"), worker("c")
    views = [a.begin(epoch(0, "a", "b")), b.begin(epoch(1, "a", "b"))]
    worker.store.set("epoch", epoch(0, "a", "b").key)
    until(lambda: all(view.newcomer for view in views))
    a.watch.at(7)
    time.sleep(3 * BEAT)
    assert views[0].leaving is None
    b.now = (6, 0.0)
    b.watch.at(6)
    until(lambda: all(view.leaving == 7 for view in views))
    assert views[1].finished_at(6) is None
    assert views[1].finished_at(7) == "a worker joins after step 7"
    b.now = (7, 1.0)
    until(b.broken_off.is_set)
    assert c.watch.broken is False


def test_one_that_waits_in_a_call_says_where_it_is_when_a_newcomer_comes(worker):
    a, b = worker("a"), worker("b")
    view = a.begin(epoch(0, "a"))
    worker.store.set("epoch", epoch(0, "a").key)
    a.now = (4, 1.0)
    until(a.broken_off.is_set)
    assert view.leaving == 4
    assert not b.watch.broken


def test_events_are_numbered_and_the_end_is_told(worker):
    a, b = worker("a"), worker("b")
    a.begin(epoch(0, "a", "b"))
    b.begin(epoch(1, "a", "b"))
    a.watch.note({"stall": 1.0})
    a.watch.finish()
    until(lambda: b.watch.finished)
    assert json.loads(worker.store.get("event/1")) == {"stall": 1.0}


def test_members_that_all_wait_are_stuck_but_not_while_one_computes(worker):
    a, b = worker("a"), worker("b")
    view = a.begin(epoch(0, "a", "b"), stuck_after=5.0)
    b.begin(epoch(1, "a", "b"))
    a.now = (3, 6.0)
    time.sleep(4 * BEAT)
    assert view.over is None
    b.now = (3, 7.0)
    until(a.broken_off.is_set)
    assert view.over == "all members have waited for one another for 6 s: the network between them fails"


class Silent(HashStore):
    """A store that ceases to answer."""

    gone = False

    def set(self, key: str, value: str) -> None:
        if self.gone:
            raise RuntimeError("connection reset")
        super().set(key, value)


def test_a_store_that_ceases_to_answer_ends_the_membership():
    store = Silent()
    lone = Worker(store, "a")
    view = lone.begin(epoch(0, "a"))
    store.gone = True
    until(lone.broken_off.is_set)
    assert lone.watch.broken
    assert view.over == "the coordinator can't be reached"
