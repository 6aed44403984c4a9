"""What a peer may send that is no message, and that it does no harm."""

from __future__ import annotations

import importlib
import random
import threading
import time
import tracemalloc

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from quorate import parts
from quorate.engines.packing import sign
from quorate.errors import QuorateError
from quorate.exchange import Exchange
from quorate.node import Departed
from quorate.rand import At, Rand
from quorate.wire import Ragged, Wire, size_in_bytes
from tests.codecs.test_laws import NAMES, of_name
from tests.engines.connected import HEADER, a_worker_and_a_forger, two_workers

TAG, SOON = 9, 30.0
LIKE = Ragged((torch.empty(100_000, device="meta"), torch.empty(400_000, dtype=torch.uint8, device="meta")))
SLACK = 300_000  # bytes that Python takes meanwhile for other things


def expecting(worker, like=LIKE, tag=TAG):
    """Have a worker wait for a message from rank 1."""
    worker.mailbox.expect(1, tag, sign(like), like)
    return lambda: worker.mailbox.take(1, tag, like, SOON)


@pytest.mark.parametrize(
    ("rows", "says"),
    [
        ((-1, 0), "no number of rows"),
        ((0, -(1 << 63)), "no number of rows"),
        ((1 << 62, 1 << 62), "but there are at most"),
        ((100_001, 0), r"\[100001, 0\] rows, but there are at most \[100000, 400000\]"),
        ((1, 400_001), "but there are at most"),
        ((1 << 28, 1 << 30), "but there are at most"),
    ],
)
def test_forged_numbers_of_rows_are_refused_and_cost_no_memory(monkeypatch, rows, says):
    with a_worker_and_a_forger(monkeypatch) as (worker, forger):
        take = expecting(worker)
        tracemalloc.start()
        try:
            forger.header(TAG, sign(LIKE), *rows)
            with pytest.raises(QuorateError, match=rf"rank 1 sent float32\[\*\], uint8\[\*\] with .*{says}"):
                take()
            assert tracemalloc.get_traced_memory()[1] < SLACK
        finally:
            tracemalloc.stop()


@pytest.mark.parametrize("tag", [0, -2, (1 << 20) + 1, 1 << 62])
def test_forged_tags_are_refused(monkeypatch, tag):
    with a_worker_and_a_forger(monkeypatch) as (worker, forger):
        take = expecting(worker)
        forger.header(tag, sign(LIKE), 1, 1)
        with pytest.raises(QuorateError, match=f"rank 1 sent a message of the tag {tag}, which is none"):
            take()


@pytest.mark.parametrize("known", [True, False])
def test_forged_signatures_are_refused(monkeypatch, known):
    """One that nothing has, and one of other messages that the program expects at times."""
    other = (torch.zeros(3, dtype=torch.int64),)
    with a_worker_and_a_forger(monkeypatch) as (worker, forger):
        take = expecting(worker)
        if known:
            worker.mailbox.expect(1, TAG, sign(other), other)
        forger.header(TAG, sign(other) if known else 12345)
        what = r"int64\[3\]" if known else "something else"
        with pytest.raises(
            QuorateError, match=rf"expected float32\[\*\], uint8\[\*\] from rank 1, but was sent {what}"
        ):
            take()


def test_a_message_of_the_rows_of_another_call_is_refused(monkeypatch):
    short = Ragged((torch.empty(10, device="meta"),))
    long = Ragged((torch.empty(1000, device="meta"),))
    with two_workers(monkeypatch) as (worker, peer):
        expecting(worker, long)
        take = expecting(worker, short)
        sent = peer.send(0, Ragged((torch.zeros(11),)), TAG)  # what nobody holds is not sent
        with pytest.raises(
            QuorateError, match=r"rank 1 sent float32\[\*\] with \[11\] rows, but there are at most \[10\]"
        ):
            take()
        sent()


def test_a_message_that_comes_before_it_is_asked_for_is_measured_by_what_is_asked(monkeypatch):
    """A peer that is ahead sends its second, larger bucket while the first is waited for."""
    first, second = (Ragged((torch.empty(rows, device="meta"),)) for rows in (10, 100_000))
    with two_workers(monkeypatch) as (worker, peer):
        take = expecting(worker, first)
        peer.send(0, Ragged((torch.zeros(10),)), TAG)()
        sent = peer.send(0, Ragged((torch.ones(90_000),)), TAG)
        assert len(take()[1][0]) == 10
        assert len(expecting(worker, second)()[1][0]) == 90_000
        sent()


def test_what_is_announced_and_never_sent_ends_the_connection_in_time(monkeypatch):
    with a_worker_and_a_forger(monkeypatch, timeout=1.0) as (worker, forger):
        take = expecting(worker)
        forger.header(TAG, sign(LIKE), 50_000, 0)
        began = time.monotonic()
        with pytest.raises(
            Departed, match="rank 1 has left: it sent nothing of the 200000 bytes that it had announced"
        ):
            take()
        assert time.monotonic() - began < 60


def test_memory_for_what_is_announced_is_at_most_twice_what_is_expected(monkeypatch):
    with a_worker_and_a_forger(monkeypatch, timeout=1.0) as (worker, forger):
        take = expecting(worker)
        tracemalloc.start()
        try:
            forger.header(TAG, sign(LIKE), 100_000, 400_000)
            with pytest.raises(Departed):
                take()
            assert tracemalloc.get_traced_memory()[1] < 2 * size_in_bytes(LIKE) + SLACK
        finally:
            tracemalloc.stop()


def test_fewer_bytes_than_announced_are_a_message_of_other_contents(monkeypatch):
    """gloo does not say how many came; what decodes the message looks at what is in it."""
    like = Ragged((torch.empty(100_000, device="meta"),))
    with a_worker_and_a_forger(monkeypatch) as (worker, forger):
        take = expecting(worker, like)
        forger.header(TAG, sign(like), 20_000)
        forger.part(TAG, like, 0, 1 << 17, b"\0" * 40_000)
        _, (came,) = take()
        assert came.shape == (20_000,)
        assert torch.equal(came[:10_000], torch.zeros(10_000))


@pytest.mark.parametrize("seed", range(12))
def test_headers_of_random_bytes_are_refused(monkeypatch, seed):
    chance = random.Random(seed)
    with a_worker_and_a_forger(monkeypatch) as (worker, forger):
        take = expecting(worker)
        if seed % 2:
            forger.raw(chance.randbytes(HEADER))
        else:
            forger.header(TAG, sign(LIKE), *[chance.randrange(-(1 << 63), 1 << 63) for _ in range(6)])
        with pytest.raises(QuorateError, match="rank 1 sent"):
            take()


def test_rows_of_tensors_that_are_not_there_are_not_looked_at(monkeypatch):
    like = Ragged((torch.empty(10, device="meta"),))
    with a_worker_and_a_forger(monkeypatch) as (worker, forger):
        take = expecting(worker, like)
        forger.header(TAG, sign(like), 1, -5, 1 << 60, content=b"\0\0\x80\x3f")
        assert torch.equal(take()[1][0], torch.ones(1))
        none = Ragged()
        take = expecting(worker, none)
        forger.header(TAG, sign(none), -1)
        assert take()[1] == ()


@pytest.mark.parametrize("stuck", ["idle", "strange message", "half a message"])
def test_a_worker_closes_in_time_whatever_its_peer_does(monkeypatch, stuck):
    with a_worker_and_a_forger(monkeypatch, timeout=60.0, farewell=1.0) as (worker, forger):
        expecting(worker)
        worker._joined[1].wait()
        if stuck == "strange message":
            for _ in range(2):
                forger.header(TAG + 1, 5)
        if stuck == "half a message":
            forger.header(TAG, sign(LIKE), 50_000, 0)
        time.sleep(0.2)
        began = time.monotonic()
        worker.close()
        assert time.monotonic() - began < 60
        assert not any(thread.name == "quorate-session-1" and thread.is_alive() for thread in threading.enumerate())


hostile = given(d=st.integers(1, 3000), seed=st.integers(0, 10**6), share=st.sampled_from([0.0, 0.3, 1.0]))


@pytest.mark.parametrize("name", NAMES)
@hostile
@settings(max_examples=15, deadline=None)
def test_random_bytes_are_decoded_to_an_update_or_refused(name, d, seed, share):
    """Of the shapes that a connection lets through, which is all that it looks at."""
    chance = random.Random(seed)
    instances = of_name(name)
    codec = instances[seed % len(instances)]
    exchange = Exchange(codec)
    if exchange.meets_itself:
        return
    like = torch.zeros(d)
    declared = codec.emits(like)
    rows = [round(share * len(each)) if isinstance(declared, Ragged) else len(each) for each in declared if each.dim()]
    if len(rows) < len(declared):
        return
    said = []
    for count, each in zip(rows, declared, strict=True):
        shape = (count, *each.shape[1:])
        size = each.element_size() * torch.Size(shape).numel()
        said.append(torch.frombuffer(bytearray(chance.randbytes(size) or b"\0" * 8), dtype=torch.uint8)[:size])
        said[-1] = said[-1].view(each.dtype).reshape(shape) if size else torch.empty(shape, dtype=each.dtype)
    message = Ragged(said) if isinstance(declared, Ragged) else tuple(said)
    assert codec.wire(Wire()) is not None
    try:
        heard = exchange.hear(message, like, At(0, 1, 4, Rand(0)))
    except QuorateError:
        return
    assert (heard.shape, heard.dtype) == ((d,), like.dtype)


def test_all_codecs_are_looked_at():
    assert set(NAMES) == set(parts.names("codec"))
    assert importlib.import_module("quorate.codecs.top_k").__name__.rsplit(".", 1)[1] in NAMES
