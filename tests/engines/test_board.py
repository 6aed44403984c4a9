from __future__ import annotations

import json

import pytest

from quorate.engines import board
from quorate.engines.board import Board, Post, _parsed


class FakeStore:
    """The store of a process group, as a dictionary; every look at it may change what the others have posted."""

    def __init__(self):
        self.held, self.looks = {}, 0
        self.between = lambda store: None

    def set(self, key, value):
        self.held[key] = value

    def check(self, keys):
        return all(key in self.held for key in keys)

    def get(self, key):
        return self.held[key].encode()

    def post(self, rank, **changes):
        post = {"host": f"host{rank}", "step": 5, "calls": 9, "doing": "computing", "failed": None}
        self.held[f"board/{rank}"] = json.dumps(post | {"ended": False, "beat": 3} | changes)


class BrokenStore(FakeStore):
    broken = False

    def check(self, keys):
        if self.broken:
            raise RuntimeError("connection reset")
        return super().check(keys)


@pytest.fixture
def store():
    return FakeStore()


@pytest.fixture
def of(monkeypatch):
    """Make rank 0's board, whose waits for the others' next posts take no time."""
    made = []

    def make(store, size):
        mine = Board(store, 0, size, "host0", lambda: (5, 9, "waiting in all_reduce"))
        monkeypatch.setattr(board.time, "sleep", lambda _: store.between(store))
        made.append(mine)
        return mine

    monkeypatch.setattr(board, "_BEAT", 0.01)
    yield make
    for each in made:
        each.close()


def says(mine, calls=10):
    return mine.culprits(calls)


def test_posts_what_the_rank_is_doing(store, of):
    mine = of(store, 1)
    mine.post(ended=True)
    told = json.loads(store.held["board/0"])
    assert [told[key] for key in ("host", "step", "calls", "doing", "failed", "ended")] == [
        *("host0", 5, 9, "waiting in all_reduce", None, True)
    ]
    assert told["beat"] >= 2
    mine.post(failed="a bad sample")
    assert _parsed(store.get("board/0")).failed == "a bad sample"
    mine.close()
    assert json.loads(store.held["board/0"])["ended"]


def test_names_a_rank_that_is_late(store, of):
    store.post(1)
    store.between = lambda store: store.post(1, beat=7, step=6)
    assert says(of(store, 2)) == "rank 1 (host1) is late: it is in step 6, computing"


def test_does_not_blame_a_rank_that_waits_in_the_same_call(store, of):
    for rank in (1, 2):
        store.post(rank, calls=10)

    def between(store):
        store.post(1, calls=10, beat=4)
        store.post(2, calls=9, beat=4, doing="waiting in recv from rank 1")

    store.between = between
    assert says(of(store, 3)) == "rank 2 (host2) is late: it is in step 5, waiting in recv from rank 1"


def test_names_a_rank_that_has_fallen_silent(store, of):
    store.post(1, step=17)
    assert says(of(store, 2)) == (
        "rank 1 (host1) is dead, halted or cut off: nothing was heard of it for over 3.5 s;"
        " it was in step 17, computing"
    )


def test_names_a_rank_that_has_stopped_and_does_not_wait_for_more(store, of):
    store.post(1, failed="rank 1, step 5: a bad sample")
    store.post(2, calls=10)
    store.between = lambda _: pytest.fail("it knows enough")
    assert says(of(store, 3)) == "rank 1 (host1) stopped in step 5: rank 1, step 5: a bad sample"


def test_names_ranks_that_have_ended_or_never_joined(store, of):
    store.post(1, ended=True)
    assert says(of(store, 3)) == "rank 1 (host1) has ended its program after 9 calls; rank 2 has never joined"


def test_a_rank_that_joins_meanwhile_is_late_only(store, of):
    store.between = lambda store: store.post(1, calls=0, step=1)
    assert says(of(store, 2)) == "rank 1 (host1) is late: it is in step 1, computing"


def test_blames_the_network_if_every_rank_is_there(store, of):
    store.post(1, calls=10)
    store.between = lambda store: store.post(1, calls=10, beat=4)
    assert says(of(store, 2)) == "every rank is there, so the network between them fails or is too slow"


def test_says_that_the_store_is_gone(of):
    store = BrokenStore()
    mine = of(store, 2)
    store.broken = True
    assert says(mine) == (
        "the host of the run's key-value store (rank 0's, or torchrun's agent) can't be reached any more"
    )


NOTHING = Post("unknown", 0, 0, "nothing that can be read", None, False, -1)


@pytest.mark.parametrize(
    "raw",
    [b"", b"\xff\xfe", b"{", b"[]", b"5", b"null", b"{}", b'{"host": 1}', b"[" * 100_000, b'{"step": 1e999}', b"NaN"],
)
def test_a_post_that_cannot_be_read_is_shown_as_such(raw, store, of):
    assert _parsed(raw) == NOTHING
    store.held["board/1"] = raw.decode("latin1")
    store.get = lambda key: raw if key == "board/1" else FakeStore.get(store, key)
    assert "rank 1 (unknown)" in says(of(store, 2))


def test_a_post_of_a_stranger_is_cut(store):
    store.post(1, host="h" * 500, doing="d" * 500, failed="f" * 5000, step="12", beat=True)
    post = _parsed(store.get("board/1"))
    assert (len(post.host), len(post.doing), len(post.failed), post.step) == (80, 200, 500, 12)
    store.post(1, step=float("inf"))
    assert _parsed(store.get("board/1")) == NOTHING
