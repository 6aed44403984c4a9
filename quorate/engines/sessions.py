"""Connections of two real workers alone, so that one worker's death ends its own and no one else's.

A group in which a call has failed or timed out can't be used again, and a call that waits can't be ended. So each pair
of workers that talk in tags from 1 has a gloo group of its own, in which a thread on either side receives all the time;
the program waits for what the thread has received. A message is a header and parts (`envelopes`). Room for the next
header, and for the next parts of each tag, is made before they come, or gloo would ask for it by a message of its own,
which costs a round trip; of ragged messages, room is held for parts of the sizes of the last few.

What a peer says is checked before memory is taken: it may announce nonsense, but no more bytes than the program
expects. Peers must speak gloo honestly, though: it ends the process when more bytes come than it was given room for.
"""

from __future__ import annotations

import atexit
import datetime
import threading
import time
from collections import deque
from collections.abc import Callable, Iterable
from contextlib import suppress
from typing import Any, NamedTuple

import torch
import torch.distributed as dist
from torch import Tensor
from torch.distributed.distributed_c10d import PrefixStore, Store

from quorate.engines import envelopes
from quorate.engines.mailbox import Mailbox
from quorate.engines.packing import sign
from quorate.engines.reuse import Reuse
from quorate.errors import QuorateError
from quorate.node import Departed
from quorate.wire import Message, Ragged

_HEADER, _GOODBYE, _NOTHING = 0, -1, 2  # gloo's tag of headers; in a header; gloo's tag of what never comes
_LARGEST_TAG = 1 << 20
_FAREWELL = 10.0  # seconds that all peers together have to say goodbye
_BRIEFLY = datetime.timedelta(milliseconds=1)
_LATELY = 3  # messages of a tag and signature: room for the next one is made in the sizes of these
_SHORT = 1 << 18  # bytes up to which the next message finds room while one is being read


class Sessions:
    """All connections of one worker to single peers, made when the first is needed.

    Args:
        store: shared by all ranks.
        timeout: seconds that a connection may take to come about, or to be idle.
    """

    def __init__(self, rank: int, size: int, store: Store, timeout: float) -> None:
        self._rank, self._size, self._store = rank, size, store
        self._timeout = datetime.timedelta(seconds=timeout)
        self.mailbox = Mailbox()
        self._pairs: dict[int, Any] = {}
        self._joined = {peer: threading.Event() for peer in range(size) if peer != rank}
        self._sending = threading.Lock()
        self._lost: set[int] = set()
        self._opened = False
        self._threads: dict[int, threading.Thread] = {}

    def open(self) -> None:
        """Begin to connect to all peers; each connection comes about when both have begun."""
        if not self._opened:
            self._opened = True
            atexit.register(self.close)
            for peer in self._joined:
                store = self._store.clone()  # type: ignore[attr-defined]
                name = f"quorate-session-{peer}"
                thread = threading.Thread(target=self._serve, args=(peer, store), name=name, daemon=True)
                self._threads[peer] = thread
                thread.start()

    def drop(self, peer: int, why: str) -> None:
        """Take note that a peer has left."""
        self._lost.add(peer)
        self.mailbox.gone(peer, why)
        self._joined[peer].set()

    def send(self, dst: int, message: Message, tag: int) -> Callable[[], None]:
        """Start to send; the function that is returned waits until the message may be written to."""
        self.open()
        self._joined[dst].wait()
        if dst in self._lost:
            raise Departed(dst, "it can't be reached any more")
        pair, other = self._pairs[dst], int(self._rank < dst)
        key = sign(message)
        header, parts = envelopes.written(message, tag, key)
        try:
            with self._sending:
                works = [pair.send([header.tensor], other, _HEADER)]
                works += [
                    pair.send([content], other, _slot(_Room(tag, key, number, part.room)))
                    for number, (part, content) in enumerate(parts)
                ]
        except RuntimeError as error:
            raise self._closed(dst) from error

        def wait(_held: tuple[Any, ...] = (header, parts)) -> None:
            try:
                for work in works:
                    work.wait()
            except RuntimeError as error:
                raise self._closed(dst) from error

        return wait

    def _closed(self, peer: int) -> Departed:
        self.drop(peer, "its connection was closed")
        return Departed(peer, "its connection was closed")

    def _serve(self, peer: int, store: Store) -> None:
        """Connect to a peer, and receive what it sends, on a thread of this connection."""
        low, high = sorted((self._rank, peer))
        try:
            pair = dist.ProcessGroupGloo(
                PrefixStore(f"pair-{low}-{high}", store), int(self._rank > peer), 2, self._timeout
            )
        except (RuntimeError, ValueError) as error:
            self.drop(peer, f"it never connected [{str(error).splitlines()[0][:120]}]")
            return
        self._pairs[peer] = pair
        self._joined[peer].set()
        try:
            _Receiving(pair, int(self._rank < peer), peer, self.mailbox).run()
        except QuorateError as error:
            self.mailbox.wrong(error)
        except ConnectionError as error:
            self.drop(peer, str(error))
        except Exception as error:
            self.mailbox.wrong(QuorateError(f"rank {peer} sent what can't be read: {type(error).__name__}: {error}"))

    def close(self) -> None:
        """Tell all peers that no message follows, so that their threads end, and wait for them to say so too.

        A thread that still waits in gloo when the process ends would abort it, so what is left of the connections after
        that is broken off.
        """
        atexit.unregister(self.close)
        self.mailbox.close()
        until = time.monotonic() + _FAREWELL
        said = []
        for peer, pair in self._pairs.items():
            header = envelopes.Header()
            header.write(_GOODBYE)
            with suppress(RuntimeError):
                if peer not in self._lost:
                    said.append((header, pair.send([header.tensor], int(self._rank < peer), _HEADER)))
        for _, work in said:
            with suppress(RuntimeError):
                work.wait(max(_BRIEFLY, datetime.timedelta(seconds=until - time.monotonic())))
        for peer, thread in self._threads.items():
            thread.join(max(0.0, until - time.monotonic()))
            if thread.is_alive() and peer in self._pairs:
                with suppress(RuntimeError):  # a call that times out closes its connection
                    self._pairs[peer].recv([torch.empty(1)], int(self._rank < peer), _NOTHING).wait(_BRIEFLY)
                thread.join(_FAREWELL)
        self._pairs.clear()


class _Room(NamedTuple):
    """What room is for: a part of the messages of a tag and signature, and its bytes."""

    tag: int
    sign: int
    number: int
    bytes: int


class _Receiving:
    """What one connection receives."""

    def __init__(self, pair: Any, other: int, peer: int, mailbox: Mailbox) -> None:
        self._pair, self._other, self._peer, self._mailbox = pair, other, peer, mailbox
        self._headers: deque[tuple[envelopes.Header, Any]] = deque()
        self._rooms: dict[_Room, deque[tuple[Tensor, Any]]] = {}
        self._lately: dict[tuple[int, int], deque[tuple[_Room, ...]]] = {}
        self._reuse = Reuse()

    def _expect(self, header: envelopes.Header) -> None:
        self._headers.append((header, self._pair.recv([header.tensor], self._other, _HEADER)))

    def _make(self, room: _Room, times: int = 1) -> None:
        made = self._rooms.setdefault(room, deque())
        while len(made) < times:
            buffer = self._reuse.take(room.bytes)
            made.append((buffer, self._pair.recv([buffer], self._other, _slot(room))))

    def _make_usual(self) -> None:
        """Make room for what the program expects, if its size is known or has come lately."""
        for (tag, key), like in self._mailbox.likes(self._peer).items():
            if (tag, key) not in self._lately:
                parts = () if isinstance(like, Ragged) else envelopes.form(envelopes.shapes_of(like)).parts
                self._lately[tag, key] = deque([_rooms(tag, key, parts)], _LATELY)
            for rooms in self._lately[tag, key]:
                for room in rooms:
                    self._make(room, 2 if room.bytes <= _SHORT else 1)

    def run(self) -> None:
        """Receive until the peer says goodbye.

        Raises:
            QuorateError: if what comes is no message.
            ConnectionError: if the connection is closed, or nothing comes for too long.
        """
        self._expect(envelopes.Header())
        self._expect(envelopes.Header())
        self._make_usual()
        while True:
            header, coming = self._headers.popleft()
            _await(coming, "it sent nothing")
            tag, sign, *rows = header.numbers
            if tag == _GOODBYE:
                self._mailbox.ended(self._peer)
                return
            if not 0 < tag <= _LARGEST_TAG:
                raise QuorateError(f"rank {self._peer} sent a message of the tag {tag}, which is none")
            like = self._mailbox.like(self._peer, tag, sign, rows)
            if like is None:
                return
            shapes, (inside, parts) = envelopes.announced(rows, like, self._peer)
            came, rooms = [], _rooms(tag, sign, parts)
            self._lately.setdefault((tag, sign), deque(maxlen=_LATELY)).append(rooms)
            for part, room in zip(parts, rooms, strict=True):
                self._make(room)
                buffer, coming = self._rooms[room].popleft()
                _await(coming, f"it sent nothing of the {part.bytes} bytes that it had announced")
                came.append((part, buffer))
            message = type(like)(envelopes.read(header, came, inside, shapes))
            self._expect(header)
            self._make_usual()
            self._mailbox.put(self._peer, tag, message)


def _rooms(tag: int, sign: int, parts: Iterable[envelopes.Part]) -> tuple[_Room, ...]:
    return tuple(_Room(tag, sign, number, part.room) for number, part in enumerate(parts))


def _await(coming: Any, silent: str) -> None:
    """Wait until something is there.

    Raises:
        ConnectionError: if the connection is closed, or nothing comes in time, in the words of `silent`.
    """
    try:
        coming.wait()
    except RuntimeError as error:
        late = "timed out" in str(error).lower()
        raise ConnectionError(f"{silent} in the time given" if late else "its connection was closed") from error


def _slot(room: _Room) -> int:
    """Return gloo's tag for a part's bytes: one that is not what is expected must never meet room for another.

    gloo ends the process when a message is longer than the room for it.
    """
    sign, number = room.sign, room.number << 40 | room.bytes
    mixed = (room.tag * 0x9E3779B97F4A7C15 ^ sign * 0xBF58476D1CE4E5B9 ^ number * 0x94D049BB133111EB) >> 17
    return (mixed ^ mixed >> 31) & 0x7FFFFFFF | 1
