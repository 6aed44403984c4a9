from __future__ import annotations

import time
import tomllib
from contextlib import suppress
from datetime import timedelta
from threading import Thread

import pytest
import tomli_w
import torch

from quorate.engines import sessions
from quorate.engines.packing import sign
from quorate.engines.sessions import _HEADER, _NOTHING, _Room, _slot
from quorate.metrics_file import read_lines
from quorate.node import Departed
from quorate.wire import Ragged
from tests.commands import has_checkpoint, kill, result, started, until, workers, write_task
from tests.engines.connected import a_worker_and_a_forger, two_workers


def recipe(folder, steps, **program):
    path = write_task(folder, steps, "parameter_server", timeout=30.0)
    whole = tomllib.loads(path.read_text())
    whole["program"] |= program
    path.write_text(tomli_w.dumps(whole))
    return path


@pytest.mark.processes
@pytest.mark.parametrize("staleness", [0, 2])
def test_a_dead_worker_ends_its_own_connections_only(tmp_path, staleness):
    """One of three workers is killed; the server and the other two train on to the end."""
    run = tmp_path / "run"
    words = ("run", recipe(tmp_path, 80, colocated=False, staleness=staleness), "--workers", 4, "--out", run, "--json")
    with started(*words, SECONDS_PER_LOSS=0.05) as process:
        until(has_checkpoint(run))
        kill(workers(run)[1])
        out, err = process.communicate(timeout=200)
    assert err == ""
    assert process.returncode == 0
    assert result(out)["steps"] == 80
    assert result(out)["accuracy"] > 0.5
    assert [line["ranks"] for line in read_lines(run / "metrics.jsonl")][-1] < 4


@pytest.mark.processes
def test_a_dead_server_ends_the_run_and_is_named(tmp_path):
    run = tmp_path / "run"
    words = ("run", recipe(tmp_path, 200, colocated=False), "--workers", 3, "--out", run)
    with started(*words, SECONDS_PER_LOSS=0.05) as process:
        until(has_checkpoint(run))
        kill(workers(run)[2])
        _, err = process.communicate(timeout=200)
    assert process.returncode == 1
    assert "rank 2 was killed by SIGKILL" in err
    assert "rank 2 has left" in err


def test_room_for_one_part_never_meets_another():
    signs, sizes = (5, 1 << 40, (1 << 63) - 1), (193, 1 << 15, 1 << 30)
    rooms = [_Room(tag, sign, n, size) for tag in range(1, 50) for sign in signs for n in (0, 1, 5) for size in sizes]
    slots = {_slot(room) for room in rooms}
    assert len(slots) == len(rooms)
    assert all(0 < slot < 1 << 31 and slot not in (_HEADER, _NOTHING) for slot in slots)


@pytest.fixture
def receiving(monkeypatch):
    """The receiving ends of connections that are made meanwhile."""
    made = []

    class Known(sessions._Receiving):
        def __init__(self, *given):
            super().__init__(*given)
            made.append(self)

    monkeypatch.setattr(sessions, "_Receiving", Known)
    return made


def test_rooms_of_many_lengths_take_no_more_memory_than_a_few_messages(monkeypatch, receiving):
    """All powers of two up to the largest message, up and down, then messages of one length for a while."""
    like, largest = Ragged((torch.empty(0, 2), torch.empty(0, dtype=torch.uint8))), 1 << 20
    lengths = [1 << power for power in range(12, 21)]
    sizes = [
        *lengths,
        *reversed(lengths),
        *[size - size // (3 + i) for i, size in enumerate(lengths * 2)],
        *[5000] * 80,
    ]
    with two_workers(monkeypatch) as (worker, peer):
        for size in sizes:
            worker.mailbox.expect(1, 4, sign(like), like)
            sent = peer.send(0, Ragged((torch.ones(size // 8, 2), torch.zeros(9, dtype=torch.uint8))), 4)
            _, (came, _) = worker.mailbox.take(1, 4, like, 30.0)
            assert came.shape == (size // 8, 2)
            sent()
        (end,) = [each for each in receiving if each._peer == 1]
        waiting = sum(room.bytes for room in end._rooms)
        assert waiting <= 2 * largest
        assert len(end._lately[4, sign(like)]) == sessions._LATELY
        kept = sum(len(each) for held in end._reuse._kept.values() for each in held)
        assert kept <= 4 * 8192  # what the last messages were read from


def test_a_peer_that_says_goodbye_is_not_waited_for(monkeypatch):
    with two_workers(monkeypatch) as (worker, peer):
        like = (torch.zeros(2),)
        worker.mailbox.expect(1, 4, sign(like), like)
        worker.mailbox.expect(None, 4, sign(like), like)
        sent = peer.send(0, like, 4)
        closing = Thread(target=peer.close)
        closing.start()
        assert worker.mailbox.take(1, 4, like, 30.0)[0] == 1
        with pytest.raises(Departed, match="rank 1 has left: its program has ended"):
            worker.mailbox.take(1, 4, like, 30.0)
        assert worker.mailbox.take(None, 4, like, 0.0) is None
        worker.close()
        closing.join()
        sent()


def test_sending_to_a_peer_that_is_gone_says_so(monkeypatch):
    with a_worker_and_a_forger(monkeypatch) as (worker, forger):
        worker.mailbox.expect(1, 4, 5, (torch.zeros(2),))
        with suppress(RuntimeError):  # a call that times out closes its connection
            forger.pair.recv([torch.zeros(1)], 0, 77).wait(timedelta(milliseconds=1))
        began = time.monotonic()
        for _ in range(2):
            with pytest.raises(Departed, match="rank 1 has left: "):
                worker.send(1, (torch.zeros(2),), 4)()
        assert time.monotonic() - began < 60
