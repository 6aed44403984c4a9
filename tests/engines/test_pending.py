from __future__ import annotations

import pytest

from quorate.engines.pending import Pending, where
from tests.tiny import line_of


def call(unawaited):
    """Stand for a node's method: the place of a call is where this is called."""
    return Pending("recv", unawaited)


async def inner(pending):
    return await pending  # inside


async def outer(pending):
    return await inner(pending)


def test_says_where_the_innermost_coroutine_stands():
    pending = call({})
    coroutine = outer(pending)
    assert where(coroutine) == line_of(outer, "async def")
    assert coroutine.send(None) is pending
    assert where(coroutine) == line_of(inner, "inside")
    pending.result, pending.done = 7, True
    with pytest.raises(StopIteration) as stop:
        coroutine.send(None)
    assert stop.value.value == 7
    assert where(coroutine) == "its end"


def test_says_where_it_was_called():
    def here():
        return call({})  # the call

    assert here().place == line_of(here, "# the call")


def test_is_forgotten_until_it_is_awaited():
    unawaited = {}
    pending = call(unawaited)
    assert list(unawaited.values()) == [pending]
    coroutine = inner(pending)
    coroutine.send(None)
    assert unawaited == {}
    coroutine.close()


def test_what_is_done_is_not_waited_for_and_may_be_awaited_again():
    pending = call({})
    pending.result, pending.done = "x", True
    for _ in range(2):
        with pytest.raises(StopIteration, match="x"):
            inner(pending).send(None)


def test_an_error_is_raised_where_it_is_awaited():
    pending = call({})
    pending.error, pending.done = ValueError("gone"), True
    with pytest.raises(ValueError, match="gone"):
        inner(pending).send(None)
