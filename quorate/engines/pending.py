"""Awaitables that an engine answers, and where in a program one of them was left."""

from __future__ import annotations

import sys
from collections.abc import Coroutine, Generator
from types import CodeType
from typing import Any, Generic, TypeVar

T = TypeVar("T")


class Pending(Generic[T]):
    """A call that has started; awaiting it gives its result.

    Args:
        what: the node's method that was called.
        unawaited: where it is held until it is awaited, so that a forgotten one is found.
    """

    __slots__ = ("called", "detail", "done", "error", "result", "unawaited", "waiter", "what")

    result: T

    def __init__(self, what: str, unawaited: dict[int, Pending[Any]], detail: Any = None) -> None:
        frame = sys._getframe(2)
        self.called: tuple[CodeType, int] = frame.f_code, frame.f_lasti
        self.what, self.detail, self.done, self.unawaited = what, detail, False, unawaited
        self.error: Exception | None = None
        self.waiter: Any = None
        unawaited[id(self)] = self

    def __await__(self) -> Generator[Pending[T], None, T]:
        self.unawaited.pop(id(self), None)
        if not self.done:
            yield self
        if self.error is not None:
            raise self.error
        return self.result

    @property
    def place(self) -> str:
        """The file and line of the call."""
        code, instruction = self.called
        line = next(line for start, end, line in code.co_lines() if start <= instruction < end)
        return f"{code.co_filename}:{line}"


def where(coroutine: Coroutine[Any, Any, Any]) -> str:
    """Return the file and line at which a suspended coroutine, or the innermost one it awaits, stands."""
    inner: Any = coroutine
    while getattr(inner, "cr_await", None) is not None and hasattr(inner.cr_await, "cr_frame"):
        inner = inner.cr_await
    frame = inner.cr_frame
    return "its end" if frame is None else f"{frame.f_code.co_filename}:{frame.f_lineno}"
