"""A server's program in a thread of its own: it computes there, and what it waits for happens on the event loop."""

from __future__ import annotations

import asyncio
import threading
from collections.abc import Callable, Coroutine, Generator
from concurrent.futures import Future
from typing import Any, TypeVar

import torch

from quorate.errors import QuorateError, RunError

T = TypeVar("T")


class Wait:
    """What the program waits for."""

    def __init__(self, start: Callable[[], Coroutine[Any, Any, Any]]) -> None:
        self.start = start

    def __await__(self) -> Generator[Wait, Any, Any]:
        return (yield self)


def in_thread(
    program: Coroutine[Any, Any, T], loop: asyncio.AbstractEventLoop, named: Callable[[QuorateError], RunError]
) -> Future[T]:
    """Start a program that awaits nothing but `Wait`s, with one torch thread.

    Args:
        loop: where what it waits for happens.
        named: says where an error of a task belongs.
    """
    result: Future[T] = Future()
    threading.Thread(target=_drive, args=(program, loop, named, result), name="program", daemon=True).start()
    return result


def _drive(
    coroutine: Coroutine[Any, Any, T],
    loop: asyncio.AbstractEventLoop,
    named: Callable[[QuorateError], RunError],
    result: Future[T],
) -> None:
    torch.set_num_threads(1)
    step: Callable[[], Any] = _sending(coroutine, None)
    try:
        while True:
            wait = step()
            if not isinstance(wait, Wait):
                raise RunError(f"the program awaits {wait!r}, which is no call on its server", "no asyncio")
            try:
                step = _sending(coroutine, asyncio.run_coroutine_threadsafe(wait.start(), loop).result())
            except QuorateError as error:
                step = _throwing(coroutine, error)
    except StopIteration as end:
        result.set_result(end.value)
    except RunError as error:
        result.set_exception(error)
    except QuorateError as error:
        result.set_exception(named(error))
    except BaseException as error:
        result.set_exception(error)
    finally:
        coroutine.close()


def _sending(coroutine: Coroutine[Any, Any, T], value: Any) -> Callable[[], Any]:
    return lambda: coroutine.send(value)


def _throwing(coroutine: Coroutine[Any, Any, T], error: BaseException) -> Callable[[], Any]:
    return lambda: coroutine.throw(error)
