"""Work on the disk that goes on behind whoever has ordered it, in the order of the orders."""

from __future__ import annotations

from collections.abc import Callable
from concurrent.futures import Future, ThreadPoolExecutor


class Behind:
    """A thread that does one thing after the other; orders come from one thread at a time.

    Once something has failed, nothing more is done, and every call raises its error.
    """

    def __init__(self) -> None:
        self._pool = ThreadPoolExecutor(1, "behind")
        self._last: Future[None] | None = None
        self._error: BaseException | None = None

    def later(self, work: Callable[[], None]) -> None:
        """Do something behind, after all that was ordered before."""
        if self._error is not None:
            raise self._error
        self._last = self._pool.submit(self._do, work)

    def next(self, work: Callable[[], None]) -> None:
        """Do something at once, unless something is still to be done before it."""
        if self._last is not None and not self._last.done():
            self.later(work)
        else:
            self.settle()
            work()

    def settle(self) -> None:
        """Wait until all orders are done."""
        if self._last is not None:
            self._last.result()
            self._last = None
        if self._error is not None:
            raise self._error

    def close(self) -> None:
        """Do all orders, and stop."""
        try:
            self.settle()
        finally:
            self._pool.shutdown()

    def _do(self, work: Callable[[], None]) -> None:
        try:
            if self._error is None:
                work()
        except BaseException as error:
            self._error = error
