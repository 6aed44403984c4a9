from __future__ import annotations

import threading

import pytest

from quorate.engines.federation_behind import Behind


def test_orders_are_done_in_their_order_and_the_next_waits_for_none() -> None:
    behind, done, go = Behind(), list[int](), threading.Event()
    behind.next(lambda: done.append(0))
    assert done == [0]
    behind.later(lambda: done.append(1) if go.wait(30) else None)
    behind.next(lambda: done.append(2))
    assert done == [0]
    go.set()
    behind.settle()
    assert done == [0, 1, 2]
    behind.later(lambda: done.append(3))
    behind.close()
    assert done == [0, 1, 2, 3]


def test_after_a_failure_nothing_is_done_and_every_call_says_why() -> None:
    behind, done, go = Behind(), list[int](), threading.Event()

    def full() -> None:
        go.wait(30)
        raise OSError("the disk is full")

    behind.later(full)
    behind.next(lambda: done.append(1))
    go.set()
    for call in (behind.settle, lambda: behind.later(full), lambda: behind.next(full), behind.close):
        with pytest.raises(OSError, match="the disk is full"):
            call()
    assert done == []
