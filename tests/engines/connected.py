"""A worker's connections, and a peer that says over one of them whatever it likes."""

from __future__ import annotations

import datetime
import struct
from collections.abc import Iterator
from contextlib import contextmanager
from threading import Thread

import pytest
import torch
import torch.distributed as dist
from torch.distributed import HashStore, PrefixStore

from quorate.engines import sessions
from quorate.engines.packing import sign
from quorate.engines.sessions import Sessions
from quorate.wire import Message

HEADER = 256


class Forger:
    """Rank 1's end of a connection with rank 0, without the code that keeps to the rules."""

    def __init__(self, store: HashStore, timeout: float) -> None:
        self._sent: list[tuple[torch.Tensor, object]] = []
        wait = datetime.timedelta(seconds=timeout)
        self.pair = dist.ProcessGroupGloo(PrefixStore("pair-0-1", store), 1, 2, wait)

    def header(self, tag: int, sign: int, *rows: int, content: bytes = b"") -> None:
        """Send a header that says this."""
        numbers = struct.pack("<8q", tag, sign, *rows, *[0] * (6 - len(rows)))
        self.raw((numbers + content).ljust(HEADER, b"\0"))

    def raw(self, content: bytes, slot: int = 0) -> None:
        """Send bytes where a header is expected, or elsewhere."""
        tensor = torch.frombuffer(bytearray(content), dtype=torch.uint8)
        self._sent.append((tensor, self.pair.send([tensor], 0, slot)))  # what nobody holds is not sent

    def part(self, tag: int, like: Message, number: int, size: int, content: bytes) -> None:
        """Send bytes where a part of a message is expected, in the room for parts of that size."""
        self.raw(content, sessions._slot(sessions._Room(tag, sign(like), number, size)))


@contextmanager
def two_workers(monkeypatch: pytest.MonkeyPatch, timeout: float = 20.0) -> Iterator[tuple[Sessions, Sessions]]:
    """Connect two workers that both keep to the rules."""
    monkeypatch.setenv("GLOO_SOCKET_IFNAME", "lo")
    store = HashStore()
    both = Sessions(0, 2, store, timeout), Sessions(1, 2, store, timeout)
    for each in both:
        each.open()
    try:
        yield both
    finally:
        ending = [Thread(target=each.close) for each in both]
        for each in ending:
            each.start()
        for each in ending:
            each.join()


@contextmanager
def a_worker_and_a_forger(
    monkeypatch: pytest.MonkeyPatch, timeout: float = 20.0, farewell: float = 0.2
) -> Iterator[tuple[Sessions, Forger]]:
    """Connect a worker, rank 0, with a peer that says what it likes."""
    monkeypatch.setenv("GLOO_SOCKET_IFNAME", "lo")
    monkeypatch.setattr(sessions, "_FAREWELL", farewell)
    store = HashStore()
    worker = Sessions(0, 2, store, timeout)
    worker.open()
    forger = Forger(store, timeout)
    try:
        yield worker, forger
    finally:
        worker.close()
