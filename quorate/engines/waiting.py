"""Awaitables of real processes: awaiting one blocks the process until the call is through."""

from __future__ import annotations

from collections.abc import Callable, Coroutine, Generator, Sequence
from typing import Any, Generic, TypeVar

T = TypeVar("T")


class Waiting(Generic[T]):
    """A call that is under way.

    Args:
        finish: returns the result.
        block: waits until it can be had.
    """

    def __init__(self, finish: Callable[[], T], block: Callable[[], None] | None = None) -> None:
        self._finish: Callable[[], T] | None = finish
        self._block = block
        self._result: T

    def __await__(self) -> Generator[Waiting[T], None, T]:
        if self._finish is not None:
            yield self
        return self.wait()

    def wait(self) -> T:
        """Block until the call is through; return its result."""
        if self._finish is not None:
            finish, self._finish = self._finish, None
            if self._block is not None:
                self._block()
            self._result = finish()
        return self._result


def drive(coroutine: Coroutine[Any, Any, T], waits_for: Waiting[Any] | None = None) -> T:
    """Run a coroutine of node calls to its end, blocking where it waits; what a wait raises is raised in it.

    Args:
        waits_for: what it waits for, if it has been started.
    """
    try:
        if waits_for is None:
            waits_for = coroutine.send(None)
        while True:
            try:
                waits_for.wait()
            except BaseException as error:
                waits_for = coroutine.throw(error)
            else:
                waits_for = coroutine.send(None)
    except StopIteration as stop:
        return stop.value  # type: ignore[no-any-return]


class Started(Generic[T]):
    """A coroutine of node calls that has run to its first wait, and goes on by one wait at a time."""

    result: T

    def __init__(self, coroutine: Coroutine[Any, Any, T]) -> None:
        self._coroutine, self.ended = coroutine, False
        self._waits_for: Waiting[Any]
        self._run(lambda: coroutine.send(None))

    def go_on(self) -> None:
        """Block until what it waits for is through, and run to its next wait or its end."""
        try:
            self._waits_for.wait()
        except BaseException as error:
            raised = error  # Python forgets `error` at the end of this block
            self._run(lambda: self._coroutine.throw(raised))
        else:
            self._run(lambda: self._coroutine.send(None))

    def _run(self, resume: Callable[[], Waiting[Any]]) -> None:
        try:
            self._waits_for = resume()
        except StopIteration as stop:
            self.ended, self.result = True, stop.value


def together(started: Sequence[Started[T]]) -> list[T]:
    """Run coroutines to their ends, each by one wait in turn, so that what they begin next is under way together.

    The order is fixed: on all ranks that start equal coroutines in one order, their calls come in one order.
    """
    while left := [each for each in started if not each.ended]:
        for each in left:
            each.go_on()
    return [each.result for each in started]


def done(result: T) -> Waiting[T]:
    waiting = Waiting(lambda: result)
    waiting.wait()
    return waiting
