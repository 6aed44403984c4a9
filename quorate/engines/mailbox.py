"""What has arrived at a real worker by its connections to single peers, until the program takes it."""

from __future__ import annotations

import threading
import time
from collections import deque
from collections.abc import Sequence

from quorate.engines.envelopes import covers, outline, require_expected, too_long, unexpected, within
from quorate.errors import QuorateError
from quorate.node import Departed
from quorate.wire import Message, Ragged

Key = tuple[int | None, int, int]


class Mailbox:
    """Messages by tag, put in by the threads that receive and taken out by those that run the program."""

    def __init__(self) -> None:
        self._changed = threading.Condition()
        self._arrived: dict[int, deque[tuple[int, Message]]] = {}
        self._likes: dict[Key, Message] = {}
        self._strange: dict[tuple[int, int], tuple[int, Sequence[int]]] = {}
        self._gone: dict[int, str] = {}
        self._ended: set[int] = set()
        self._told: set[tuple[int, int]] = set()
        self._wrong: QuorateError | None = None
        self._closed = False

    def put(self, src: int, tag: int, message: Message) -> None:
        """Add a message."""
        with self._changed:
            self._arrived.setdefault(tag, deque()).append((src, message))
            self._changed.notify_all()

    def gone(self, rank: int, why: str) -> None:
        """Take note that a peer has left; what it has sent before is taken first."""
        with self._changed:
            self._gone.setdefault(rank, why)
            self._changed.notify_all()

    def ended(self, rank: int) -> None:
        """Take note that a peer has said goodbye: whoever waits for it alone waits in vain."""
        with self._changed:
            self._ended.add(rank)
            self._changed.notify_all()

    def wrong(self, error: QuorateError) -> None:
        """Have whoever takes the next message raise an error."""
        with self._changed:
            self._wrong = self._wrong or error
            self._changed.notify_all()

    def expect(self, src: int | None, tag: int, sign: int, like: Message) -> None:
        """Say what messages of a tag look like, from a peer or, if None, from any.

        Args:
            sign: the signature of `like`; of ragged messages of one signature, the most rows of all that are expected
                may come.
        """
        with self._changed:
            known = self._likes.get((src, tag, sign))
            if known is None or not covers(known, like):
                self._likes[src, tag, sign] = outline(like, known)
                self._changed.notify_all()

    def likes(self, src: int) -> dict[tuple[int, int], Message]:
        """Return what messages of a peer look like that the program has spoken of, by tag and signature."""
        with self._changed:
            return {(tag, sign): like for (peer, tag, sign), like in self._likes.items() if peer in (None, src)}

    def like(self, src: int, tag: int, sign: int, rows: Sequence[int] = ()) -> Message | None:
        """Return what a message of so many rows looks like; wait until the program speaks of one.

        Returns:
            None if it never will: it has closed.
        """
        with self._changed:
            while not self._closed:
                like = self._like(src, tag, sign, rows)
                if like is not None:
                    self._strange.pop((src, tag), None)
                    return like
                self._strange[src, tag] = sign, rows
                self._changed.notify_all()
                self._changed.wait()
        return None

    def _like(self, src: int, tag: int, sign: int, rows: Sequence[int]) -> Message | None:
        found = [self._likes[key] for key in ((src, tag, sign), (None, tag, sign)) if key in self._likes]
        return next((like for like in found if not isinstance(like, Ragged) or within(rows, like)), None)

    def close(self) -> None:
        """Let the threads know that the program takes nothing more."""
        with self._changed:
            self._closed = True
            self._changed.notify_all()

    def take(self, src: int | None, tag: int, like: Message, seconds: float) -> tuple[int, Message] | None:
        """Take the first message of a tag, from a peer if one is given; None if none comes in time.

        Raises:
            Departed: if the peer has left, or has ended; with None, once for each peer that has left.
            QuorateError: if the message that comes next is not of the shapes and dtypes of `like`.
        """
        until = time.monotonic() + seconds
        with self._changed:
            while True:
                if self._wrong is not None:
                    raise self._wrong
                arrived = self._arrived.setdefault(tag, deque())
                for position, (sender, message) in enumerate(arrived):
                    if src in (None, sender):
                        del arrived[position]
                        require_expected(sender, message, like)
                        return sender, message
                for (peer, strange), (sign, rows) in self._strange.items():
                    if strange == tag and src in (None, peer) and self._like(peer, tag, sign, rows) is None:
                        known = (peer, tag, sign) in self._likes or (None, tag, sign) in self._likes
                        raise too_long(peer, rows[: len(like)], like) if known else unexpected(peer, None, like)
                for rank, why in self._gone.items():
                    if rank == src or (src is None and (rank, tag) not in self._told):
                        self._told.add((rank, tag))
                        raise Departed(rank, why)
                if src in self._ended:
                    raise Departed(src, "its program has ended")
                left = until - time.monotonic()
                if left <= 0:
                    return None
                self._changed.wait(left)
