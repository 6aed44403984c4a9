"""Messages of tags from 1 between real workers: sent and awaited by a program, carried by `Sessions`."""

from __future__ import annotations

from collections import deque
from collections.abc import Callable
from functools import partial
from typing import TYPE_CHECKING, NoReturn

from torch.distributed.distributed_c10d import PrefixStore, Store

from quorate.engines import stopped
from quorate.engines.packing import sign
from quorate.engines.sessions import Sessions
from quorate.engines.strands import Strands
from quorate.engines.waiting import Waiting, done
from quorate.errors import QuorateError, RunError
from quorate.node import Departed
from quorate.wire import Message, Ragged, size_in_bytes

if TYPE_CHECKING:
    from quorate.engines.processes import ProcessNode

GATHERS = 1 << 20  # the tag of what everybody sends to everybody
_LOOKS = 1.0  # seconds of silence after which a rank looks whether its peers still live


class Conversations:
    """What one worker says to single peers, and hears of them.

    Args:
        store: shared by all ranks.
        strands: the worker's coroutines, of which others go on while one waits.
        timeout: seconds after which a message that has not come is given up.
    """

    def __init__(self, node: ProcessNode, store: Store, strands: Strands, timeout: float) -> None:
        self._node, self._strands, self._timeout = node, strands, timeout
        self._gathers = InOrder()
        self._sessions = Sessions(node.rank, node.size, PrefixStore("sessions", store), timeout)

    def send(self, dst: int, message: Message, tag: int) -> Waiting[None]:
        """See `Node`."""
        node, start = self._node, self._node.now()
        if dst == node.rank:
            self._sessions.mailbox.put(dst, tag, message)
            return done(None)
        try:
            wait = self._sessions.send(dst, message, tag)
        except Departed as error:
            return Waiting(lambda: None, partial(_raise, error))
        node.trace.sent(node.rank, dst, size_in_bytes(message), start, node.now())  # not when it is awaited

        def block() -> None:
            with node.waiting(f"send to rank {dst} (tag {tag})"):
                wait()

        def through() -> None:
            node.trace.busy(node.rank, "sending", start, node.now())

        return Waiting(through, block)

    def recv(self, src: int | None, like: Message, tag: int) -> Waiting[tuple[int, Message]]:
        """See `Node`."""
        start, at = self._node.now(), self._node.at
        self._sessions.open()
        self._sessions.mailbox.expect(src, tag, sign(like), like)
        came: list[tuple[int, Message]] = []
        what = f"recv from {'any rank' if src is None else f'rank {src}'} (tag {tag})"

        def block() -> None:
            while not came:
                try:
                    with self._node.waiting(what):
                        found = self._sessions.mailbox.take(src, tag, like, _LOOKS)
                except RunError:
                    raise
                except QuorateError as error:
                    raise stopped(self._node.rank, at[0], error) from error
                if found is not None:
                    came.append(found)
                else:
                    self._look_round(partial(self._node.failure, what, *at, start), start)

        return Waiting(lambda: came[0], block)

    def all_gather(self, message: Ragged, like: Message | None) -> Waiting[list[Message]]:
        """See `Node`. Everybody sends to everybody; what a peer says first is of the first call that is not through."""
        node, device = self._node, message[0].device
        others = [rank for rank in range(node.size) if rank != node.rank]
        known = like if like is not None else Ragged(tensor[:0] for tensor in message)
        coming = {rank: self.recv(rank, known, GATHERS) for rank in others}
        said = Ragged(tensor.cpu() for tensor in message)
        sent = [self.send(rank, said, GATHERS) for rank in others]
        heard: dict[int, Message] = {node.rank: message}
        at, start = node.at, node.now()

        def finish() -> None:
            try:
                for rank, each in coming.items():
                    heard[rank] = Ragged(tensor.to(device) for tensor in each.wait()[1])
                for each_sent in sent:
                    each_sent.wait()
            except Departed as gone:
                raise node.failure("all_gather", *at, start, gone) from gone

        this = self._gathers.add(finish)
        return Waiting(lambda: [heard[rank] for rank in range(node.size)], partial(self._gathers.through, this))

    def _look_round(self, failure: Callable[[Exception], RunError], start: float) -> None:
        """Nothing has come for a while: see who is gone."""
        if self._strands.failed is not None:
            raise RunError(
                f"rank {self._node.rank} waits for its own background, which stopped: {self._strands.failed}"
            )
        for peer, why in self._node.board.silent().items() if self._node.board is not None else ():
            self._sessions.drop(peer, why)
        if self._node.now() - start > self._timeout:
            raise failure(TimeoutError(f"nothing came for {self._timeout:g} s"))

    def close(self) -> None:
        """Tell all peers that no message follows."""
        self._sessions.close()


class InOrder:
    """Things to be finished in the order in which they were begun, whoever asks for the last one first."""

    def __init__(self) -> None:
        self._left: deque[Callable[[], None]] = deque()
        self._begun = self._done = 0
        self._failed: Exception | None = None

    def add(self, finish: Callable[[], None]) -> int:
        """Take note of one more; return its number."""
        self._left.append(finish)
        self._begun += 1
        return self._begun

    def through(self, number: int) -> None:
        """Finish it and all before it; what one of them raises, all after it raise too."""
        while self._done < number:
            if self._failed is not None:
                raise self._failed
            try:
                self._left[0]()
            except Exception as error:
                self._failed = error
                raise
            self._left.popleft()
            self._done += 1


def _raise(error: Exception) -> NoReturn:
    raise error
