from __future__ import annotations

import sqlite3
import threading
from pathlib import Path

import pytest
import torch

from quorate.engines import federation_store
from quorate.engines.federation_blobs import Blob
from quorate.engines.federation_files import save_blob
from quorate.engines.federation_frames import Offer
from quorate.engines.federation_home import Damaged, Home, Incoming
from quorate.engines.federation_replies import StoredReply
from quorate.engines.federation_store import Store
from quorate.errors import RunError
from quorate.trees import leaf


def reply(store: Store, client: int, round: int, value: float) -> StoredReply:
    blob = Blob({"update": (torch.full((4,), value),)}, 1 << 20)
    path = store.path(client, f"{round:032x}")
    save_blob(path, blob)
    return StoredReply(client, round, "train", f"{round:032x}", {"loss": 0.1}, blob.specs, path)


def test_what_was_accepted_is_there_after_a_crash_until_it_is_used(tmp_path):
    store = Store(tmp_path)
    assert store.ask([0, 1, 2], 0, "train", "0" * 32) == [0, 1, 2]
    first = reply(store, 1, 0, 3.0)
    store.accept(first)

    again = Store(tmp_path)  # the first one is never closed
    (kept,) = again.accepted()
    assert (kept.client, kept.round, dict(kept.numbers)) == (1, 0, {"loss": 0.1})
    assert torch.equal(kept.message("update")[0], torch.full((4,), 3.0))
    assert again.asked(0) == [0, 1, 2]
    assert [each.client for each in again.open_asks()] == [0, 2]
    assert again.ask([0, 1, 2], 0, "train", "0" * 32) == [0, 2]
    with pytest.raises(RunError, match="client 1 has been counted in round 1 before"):
        again.accept(kept)

    state = torch.ones(2)
    again.commit(1, {"parameters": state}, [kept], {"clock": 2.5})
    state.zero_()
    again.settle()
    last = Store(tmp_path)
    committed = last.committed()
    assert committed is not None
    assert (committed.round, committed.facts["clock"]) == (1, 2.5)
    assert torch.equal(leaf(committed.state, "parameters"), torch.ones(2))
    assert last.accepted() == []
    assert last.last() == {1: f"{0:032x}"}
    assert last.run == store.run
    assert not kept.path.exists()


def test_files_of_a_crash_before_their_transaction_are_removed(tmp_path):
    store = Store(tmp_path)
    store.ask([0], 0, "train", "a" * 32)
    for name in ("state-00000001-abcd.safetensors", "replies/3-" + "b" * 32, "replies/0-" + "a" * 32 + ".part"):
        (tmp_path / name).write_bytes(b"something")
    Store(tmp_path)
    assert [path.name for path in (tmp_path / "replies").iterdir()] == ["0-" + "a" * 32 + ".part"]
    assert not list(tmp_path.glob("state-*"))


def test_a_damaged_database_is_named(tmp_path):
    (tmp_path / "server.sqlite").write_bytes(b"no database" * 1000)
    with pytest.raises(RunError, match=r"server\.sqlite` is damaged"):
        Store(tmp_path)


def kept(folder: Path, value: float) -> tuple[Home, Offer]:
    home, blob = Home(folder), Blob({"update": (torch.full((4,), value),)}, 8)
    offer = Offer(
        id="1" * 32, round=0, what="train", numbers={}, tensors=blob.specs, bytes=16, sha256=blob.sha256, start=0
    )
    home.keep(offer, blob, {"codec": {"residual": torch.full((2,), value)}})
    return home, offer


def test_a_clients_memory_changes_when_its_reply_is_accepted_only(tmp_path):
    home, offer = kept(tmp_path, 5.0)
    assert home.memory() == {}
    assert Home(tmp_path).offer() == offer
    Home(tmp_path).drop()
    assert (home.memory(), home.offer()) == ({}, None)

    kept(tmp_path, 6.0)
    home.accepted()
    assert torch.equal(leaf(home.memory()["codec"], "residual"), torch.full((2,), 6.0))
    assert home.offer() is None
    home.accepted()
    assert torch.equal(leaf(Home(tmp_path).memory()["codec"], "residual"), torch.full((2,), 6.0))


def test_a_kept_reply_that_is_damaged_is_forgotten(tmp_path):
    home, _ = kept(tmp_path, 5.0)
    home.reply.write_bytes(b"0" * 16)
    assert home.offer() is None
    assert home.memory() == {}


def test_a_chunk_that_is_damaged_is_asked_for_again(tmp_path):
    from quorate.engines.federation_frames import Ask

    home, blob = Home(tmp_path), Blob({"parameters": (torch.arange(6.0),)}, 16)
    told = {"round": 0, "what": "train", "numbers": {}, "tensors": blob.specs, "bytes": blob.bytes}
    ask = Ask(id="2" * 32, chunk=16, chunks=blob.chunks, **told)
    incoming = Incoming(ask, home)
    incoming.take(blob.chunks[0], memoryview(blob.read(0, 16)))
    assert incoming.missing == {blob.chunks[1]}
    assert Incoming(ask, home).missing == {blob.chunks[1]}
    (file,) = (path for path in (tmp_path / "chunks").iterdir() if not path.suffix)
    file.write_bytes(b"x" * 24)
    with pytest.raises(Damaged):
        Incoming(ask, home)
    assert Incoming(ask, home).missing == set(blob.chunks)


def test_what_is_noted_behind_a_commit_is_on_the_disk_after_it_only(tmp_path, monkeypatch):
    go = threading.Event()
    slow = federation_store.sync_file
    monkeypatch.setattr(federation_store, "sync_file", lambda path: go.wait(30) and slow(path))
    store = Store(tmp_path)
    store.ask([0], 0, "train", "0" * 32)
    first = reply(store, 0, 0, 3.0)
    store.accept(first)
    store.commit(1, {"parameters": torch.ones(2)}, [first], {})
    assert store.ask([0], 1, "train", "1" * 32) == [0]

    crashed = sqlite3.connect(tmp_path / "server.sqlite")  # as another process would find it
    assert crashed.execute("SELECT round, state FROM asked").fetchall() == [(0, "accepted")]
    assert crashed.execute("SELECT count(*) FROM replies").fetchone() == (1,)
    assert first.path.exists()
    crashed.close()

    go.set()
    second = reply(store, 0, 1, 4.0)
    store.accept(second)
    again = Store(tmp_path)
    committed = again.committed()
    assert committed is not None
    assert committed.round == 1
    assert [each.round for each in again.accepted()] == [1]
    assert not first.path.exists()
    store.close()
    again.close()


def test_who_was_refused_is_not_asked_the_same_again(tmp_path):
    store = Store(tmp_path)
    store.ask([0, 1], 0, "train", "0" * 32)
    store.refuse(1, 0, "train")
    assert store.ask([0, 1], 0, "train", "0" * 32) == [0]
    assert Store(tmp_path).ask([0, 1], 0, "train", "0" * 32) == [0]
    assert store.ask([0, 1], 1, "train", "1" * 32) == [0, 1]


def test_chunks_of_another_broadcast_are_taken_over_and_the_rest_forgotten(tmp_path):
    from quorate.engines.federation_frames import Ask

    home = Home(tmp_path)

    def ask(*values: float) -> tuple[Ask, Blob]:
        blob = Blob({"parameters": (torch.tensor(values, dtype=torch.float32),)}, 16)
        told = {"round": 0, "what": "train", "numbers": {}, "tensors": blob.specs, "bytes": blob.bytes}
        return Ask(id="2" * 32, chunk=16, chunks=blob.chunks, **told), blob

    first, blob = ask(1, 2, 3, 4, 5, 6)
    incoming = Incoming(first, home)
    for number, sha256 in enumerate(blob.chunks):
        incoming.take(sha256, memoryview(blob.read(16 * number, min(24, 16 * number + 16))))
    before = incoming.content
    second, blob = ask(7, 7, 7, 7, 1, 2, 3, 4, 1, 2, 3, 4, 8)
    incoming = Incoming(second, home)
    assert incoming.missing == {blob.chunks[0], blob.chunks[3]}
    incoming.take(blob.chunks[3], memoryview(blob.read(48, 52)))
    incoming = Incoming(second, Home(tmp_path))
    incoming.take(blob.chunks[0], memoryview(blob.read(0, 16)))
    assert not incoming.missing
    assert incoming.content.numpy().tobytes() == blob.read(0, 52)
    incoming.content.zero_()
    assert incoming.content.numpy().tobytes() == blob.read(0, 52)
    assert torch.equal(before.view(torch.float32), torch.arange(1.0, 7))
    assert len(list((tmp_path / "chunks").iterdir())) == 2
    (journal,) = (tmp_path / "chunks").glob("*.held")
    with journal.open("ab") as file:
        file.write(b"\xff 1\n99999999999999999 1 x\n9999999999999999 99999999 " + b"0" * 64)
    assert Incoming(second, Home(tmp_path)).missing == set()
