from __future__ import annotations

import json

import pytest
import torch
import torch.distributed as dist
from hypothesis import given
from hypothesis import strategies as st
from torch.distributed import HashStore

from quorate.engines import PeerError
from quorate.engines.gathering import gather_trace
from quorate.engines.group import interface_towards, join
from quorate.engines.packing import pack, room_for, unpack
from quorate.engines.processes import ProcessNode
from quorate.engines.waiting import Waiting, drive
from quorate.errors import RunError
from quorate.gradient import TaskError
from quorate.wire import size_in_bytes
from tests.engines.peers import EXPERIMENTS
from tests.forked import ranks

SIZE = 4


@pytest.fixture(scope="module")
def told(tmp_path_factory):
    """What each of four ranks says of the experiments in peers.py."""
    folder = tmp_path_factory.mktemp("peers")
    ranks("tests.engines.peers", [(rank, SIZE, folder / "store", folder) for rank in range(SIZE)])
    return [json.loads((folder / f"told-{rank}.json").read_text()) for rank in range(SIZE)]


@pytest.mark.processes
@pytest.mark.parametrize("experiment", [each.__name__ for each in EXPERIMENTS])
def test_real_workers(experiment, told):
    assert [each[experiment] for each in told] == ["as it should be"] * SIZE


@pytest.mark.processes
def test_all_ranks_get_the_trace_of_all(told):
    assert len({each["trace"] for each in told}) == 1
    assert min(json.loads(told[0]["trace"])) > 0


DTYPES = [
    torch.float32,
    torch.float64,
    torch.float16,
    torch.bfloat16,
    torch.int64,
    torch.int32,
    torch.uint8,
    torch.bool,
]
shapes = st.lists(st.integers(0, 4), max_size=3).map(tuple)
tensors = st.tuples(st.sampled_from(DTYPES), shapes, st.integers(0, 10**6)).map(
    lambda drawn: torch.randint(0, 2, drawn[1], generator=torch.Generator().manual_seed(drawn[2])).to(drawn[0])
)
messages = st.lists(tensors, min_size=1, max_size=4).map(tuple)


@given(message=messages)
def test_unpack_inverts_pack(message):
    packed, room = pack(message), room_for(message)
    assert (packed.shape, packed.dtype) == (room.shape, room.dtype)
    assert size_in_bytes((packed,)) == size_in_bytes(message)
    for one, other in zip(unpack(room.copy_(packed), message), message, strict=True):
        assert (one.dtype, one.shape) == (other.dtype, other.shape)
        assert torch.equal(one, other)


def test_pack_reads_tensors_in_any_layout():
    x = torch.arange(12.0).reshape(3, 4)
    for message in ((x.t(),), (x.t(), x[:, ::2], x.expand(2, 3, 4))):
        assert all(map(torch.equal, unpack(pack(message).clone(), message), message))


def test_unpacked_tensors_own_their_memory():
    message = (torch.ones(3), torch.ones(2))
    packed = pack(message)
    first, _ = unpack(packed, message)
    packed.zero_()
    assert torch.equal(first, torch.ones(3))


def test_finds_the_interface_that_leads_to_an_address():
    assert interface_towards("127.0.0.1") == "lo"
    assert interface_towards("there.is.no.such.host.invalid.") is None


def test_a_call_under_way_is_finished_once():
    calls = []
    waiting = Waiting(lambda: calls.append(1) or len(calls))
    assert not calls
    assert (waiting.wait(), waiting.wait(), len(calls)) == (1, 1, 1)

    async def program():
        return await waiting, await Waiting(lambda: "new")

    assert drive(program()) == (1, "new")


def test_a_program_stops_at_the_call_that_fails():
    def fails():
        raise PeerError("rank 1 is late")

    async def program():
        await Waiting(fails)

    with pytest.raises(PeerError, match="rank 1 is late"):
        drive(program())


@pytest.fixture
def alone(monkeypatch):
    """The node of a group of one, with a board."""
    monkeypatch.setenv("GLOO_SOCKET_IFNAME", "lo")
    monkeypatch.setenv("NCCL_SOCKET_IFNAME", "lo")
    board = join(0, 1, HashStore(), "127.0.0.1", "cpu", 10.0)
    try:
        node = ProcessNode(store=board)
        yield node
        node.close()
    finally:
        dist.destroy_process_group()


def test_a_worker_may_be_alone(alone):
    async def inner():
        return alone.rank

    async def program():
        x = torch.ones(3)
        assert await alone.all_reduce(x) is x
        assert len(await alone.all_gather((x, x))) == 1
        await alone.send(0, (x,))
        await alone.send(0, (x + 1,))
        assert torch.equal((await alone.recv(0, (x,)))[1][0], x)
        assert float((await alone.recv(0, (x,)))[1][0][0]) == 2
        assert await alone.spawn(inner()) == 0
        return await alone.compute(lambda a, b: a + b, 1, 2)

    assert alone.run(program()) == 3
    summary = gather_trace(alone.trace)
    assert summary["workers"][0]["sent_bytes"] == 0
    assert summary["workers"][0]["host"] == alone.host


def test_a_mistake_in_a_computation_names_rank_and_step(alone):
    def fails():
        raise TaskError("the loss is not finite", "lower it")

    async def program():
        alone.commit(16, 1.0, {}, {})
        await alone.compute(fails)

    with pytest.raises(RunError) as error:
        alone.run(program())
    assert str(error.value) == "rank 0, step 17: the loss is not finite\nhint: lower it"
    assert alone.board._read()[0].failed == "rank 0, step 17: the loss is not finite"


@pytest.mark.parametrize("rank", [-1, 1, 7])
def test_ranks_that_do_not_exist_are_refused(rank, alone):
    with pytest.raises(RunError) as error:
        alone.send(rank, (torch.zeros(2),))
    assert str(error.value) == f"rank 0 sends to rank {rank}, but there are 1 ranks"
    with pytest.raises(RunError) as error:
        alone.recv(rank, (torch.zeros(2),))
    assert str(error.value) == f"rank 0 receives from rank {rank}, but there are 1 ranks"


def test_a_message_to_oneself_may_be_expected_before_it_is_sent(alone):
    async def program(sends):
        coming = alone.recv(0, (torch.zeros(1),))
        if sends:
            await alone.send(0, (torch.ones(1),))
        return (await coming)[1][0]

    assert float(alone.run(program(True))) == 1
    with pytest.raises(RunError, match="rank 0 waits for a message from itself that it has not sent"):
        alone.run(program(False))


class Broken:
    """What torch returns of a call that will fail."""

    def wait(self):
        raise RuntimeError("Connection closed by peer\nand a long stack")


@pytest.mark.parametrize("at_once", [True, False])
def test_a_call_that_fails_names_rank_host_step_and_collective(at_once, alone, monkeypatch):
    monkeypatch.setattr("quorate.engines.board._SILENT", 0.0)
    monkeypatch.setattr(dist, "all_reduce", lambda *_, **__: Broken().wait() if at_once else Broken())
    alone.commit(3, 1.0, {}, {})
    with pytest.raises(PeerError) as error:
        alone.all_reduce(torch.zeros(2)).wait()
    assert str(error.value) == (
        f"rank 0 ({alone.host}), step 4: all_reduce failed at once:"
        " every rank is there, so the network between them fails or is too slow [Connection closed by peer]"
    )


def test_a_group_that_not_all_join_names_who_is_missing():
    with pytest.raises(RunError) as error:
        join(0, 3, HashStore(), "127.0.0.1", "cpu", 1.0)
    assert not dist.is_initialized()
    assert "could not join the group of 3: ranks [1, 2] never came [" in error.value.problem
    assert error.value.hint == "set GLOO_SOCKET_IFNAME to the interface that the machines share"


def test_a_device_that_is_not_there_is_refused(monkeypatch):
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    with pytest.raises(RunError, match="the recipe wants GPUs, but torch sees none here"):
        join(0, 1, HashStore(), "127.0.0.1", "cuda", 1.0)
