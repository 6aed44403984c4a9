"""Real workers on torch.distributed: gloo for tensors on the CPU, NCCL for those on a GPU.

What a call starts is under way at once; awaiting it blocks the process until it is through. A group in which one call
has timed out or failed can't be used again: the run ends with an error that names the culprit, and is resumed from its
checkpoint. Neither gloo nor the stores know passwords or encryption: use a network that you trust.
"""

from __future__ import annotations

import datetime
import json
import os
import socket
import time
from collections import deque
from collections.abc import Callable, Coroutine, Generator
from typing import Any, Generic, TypeVar

import torch
import torch.distributed as dist
from torch import Tensor
from torch.distributed.distributed_c10d import PrefixStore, Store

from quorate.engines import Forgetful, Recorder, stopped
from quorate.engines.board import Board
from quorate.errors import QuorateError, RunError
from quorate.trace import Trace
from quorate.trees import Tree, map_tree
from quorate.wire import Message, size_in_bytes

T = TypeVar("T")
_LARGEST_SUMMARY = 64 << 20  # bytes of one rank's trace


class PeerError(RunError):
    """Another rank is late or gone; not this rank's own fault."""


class Waiting(Generic[T]):
    """A call that is under way.

    Args:
        finish: returns the result.
        block: waits until it can be had.
        work: torch's handle of the call.
    """

    def __init__(self, finish: Callable[[], T], block: Callable[[], None] | None = None, work: Any = None) -> None:
        self._finish: Callable[[], T] | None = finish
        self._block, self._work = block, work
        self._result: T

    def then(self, go_on: Callable[[], Tensor]) -> torch.futures.Future[Tensor]:
        """Return torch's future of what `go_on` returns, which is called when the collective is through.

        It is called on the backend's thread, before the collective's handle knows that it is through: to wait there
        would be to wait for ever.
        """

        def through(_: Any) -> Tensor:
            self._block = None
            return go_on()

        return self._work.get_future().then(through)  # type: ignore[no-any-return]

    def __await__(self) -> Generator[Waiting[T], None, T]:
        if self._finish is not None:
            yield self
        return self.wait()

    def wait(self) -> T:
        """Block until the call is through; return its result."""
        if self._finish is not None:
            finish, self._finish = self._finish, None
            if self._block is not None:
                self._block()
            self._result = finish()
        return self._result


def drive(coroutine: Coroutine[Any, Any, T]) -> T:
    """Run a coroutine of node calls to its end, blocking where it waits."""
    try:
        while True:
            coroutine.send(None).wait()
    except StopIteration as stop:
        return stop.value  # type: ignore[no-any-return]


class ProcessNode:
    """This process as one worker of the default process group."""

    def __init__(
        self,
        *,
        recorder: Recorder | None = None,
        trace: Trace | None = None,
        store: Store | None = None,
        device: torch.device | str = "cpu",
    ) -> None:
        self.rank, self.size = dist.get_rank(), dist.get_world_size()
        self.device = torch.device(device)
        self.trace = trace or Trace(self.size)
        self._recorder: Recorder = recorder or Forgetful()
        self._step, self._calls, self._doing = 0, 0, "computing"
        self._own: deque[Message] = deque()
        self._seconds_before = self.trace.seconds
        self._began = time.perf_counter()
        self.host = socket.gethostname()
        self.trace.hosts[self.rank] = self.host
        self.board = Board(store, self.rank, self.size, self.host, self._state) if store is not None else None

    def _state(self) -> tuple[int, int, str]:
        return self._step + 1, self._calls, self._doing

    def now(self) -> float:
        """Return real seconds since the run began; time between a crash and the resumption does not count."""
        return self._seconds_before + time.perf_counter() - self._began

    def compute(self, function: Callable[..., T], *args: Any, samples: float = 0, donate: bool = False) -> Waiting[T]:
        """See `Node`. The function runs now."""
        start = self.now()
        try:
            result = function(*args)
        except RunError:
            raise
        except QuorateError as error:
            raise stopped(self.rank, self._step + 1, error) from error
        self.trace.busy(self.rank, "computing", start, self.now())
        return _done(result)

    def send(self, dst: int, message: Message) -> Waiting[None]:
        """See `Node`."""
        if not 0 <= dst < self.size:  # gloo would crash
            raise RunError(f"rank {self.rank} sends to rank {dst}, but there are {self.size} ranks")
        if dst == self.rank:
            self._own.append(message)
            return _done(None)
        packed = pack(message)
        return self._begin(
            f"send to rank {dst}",
            lambda: dist.isend(packed, dst),
            lambda _: None,
            lambda start: self.trace.sent(self.rank, dst, size_in_bytes(message), start, self.now()),
        )

    def recv(self, src: int | None, like: Message) -> Waiting[tuple[int, Message]]:
        """See `Node`."""
        if src is not None and not 0 <= src < self.size:
            raise RunError(f"rank {self.rank} receives from rank {src}, but there are {self.size} ranks")
        if src == self.rank:
            return Waiting(self._from_itself)
        if src is None and self.device.type == "cuda":
            raise RunError("NCCL can't receive from whoever comes first", 'device = "cpu" in [processes]')
        buffer = room_for(like)
        group = dist.group.WORLD
        assert group is not None

        def begin() -> Any:
            return group.recv_anysource([buffer], 0) if src is None else dist.irecv(buffer, src)

        def finish(work: Any) -> tuple[int, Message]:
            return (work._source_rank() if src is None else src), unpack(buffer, like)

        return self._begin(f"recv from {'any rank' if src is None else f'rank {src}'}", begin, finish)

    def _from_itself(self) -> tuple[int, Message]:
        if not self._own:
            raise RunError(f"rank {self.rank} waits for a message from itself that it has not sent")
        return self.rank, self._own.popleft()

    def all_reduce(self, tensor: Tensor) -> Waiting[Tensor]:
        """See `Node`. The sum is written into the tensor that was given."""
        count = round(2 * (self.size - 1) * size_in_bytes((tensor,)) / self.size)
        return self._begin(
            "all_reduce",
            lambda: dist.all_reduce(tensor, async_op=True),
            lambda _: tensor,
            lambda start: self._met(count, 2 * (self.size - 1), start),
        )

    def all_gather(self, message: Message) -> Waiting[list[Message]]:
        """See `Node`. Messages must be equally long on all ranks."""
        packed = pack(message)
        buffers = [torch.empty_like(packed) for _ in range(self.size)]
        return self._begin(
            "all_gather",
            lambda: dist.all_gather(buffers, packed, async_op=True),
            lambda _: [unpack(buffer, message) for buffer in buffers],
            lambda start: self._met((self.size - 1) * size_in_bytes(message), self.size - 1, start),
        )

    def _met(self, count: int, messages: int, start: float) -> None:
        if self.size > 1:
            self.trace.sent_bytes[self.rank] += count
            self.trace.received_bytes[self.rank] += count
            self.trace.sent_messages[self.rank] += messages
            link = self.trace.links.setdefault((self.rank, (self.rank + 1) % self.size), [0, 0])
            link[0] += count
            link[1] += messages

    def _begin(
        self,
        what: str,
        begin: Callable[[], Any],
        finish: Callable[[Any], T],
        record: Callable[[float], None] | None = None,
    ) -> Waiting[T]:
        self._calls += 1
        calls, step, start = self._calls, self._step + 1, self.now()
        try:
            work = begin()
        except (RuntimeError, ValueError) as error:
            raise self._failed(what, step, calls, start, error) from error

        def block() -> None:
            self._doing = f"waiting in {what}"
            try:
                work.wait()
            except RuntimeError as error:
                raise self._failed(what, step, calls, start, error) from error
            self._doing = "computing"

        def through() -> T:
            if record is not None:
                record(start)
                self.trace.busy(self.rank, "sending", start, self.now())
            return finish(work)

        return Waiting(through, block, work)

    def _failed(self, what: str, step: int, calls: int, start: float, error: Exception) -> PeerError:
        waited = self.now() - start
        culprits = self.board.culprits(calls) if self.board is not None else "no board was kept to tell who is late"
        text = str(error).splitlines()[0][:160] if str(error) else type(error).__name__
        return PeerError(
            f"rank {self.rank} ({self.host}), step {step}: {what} failed after {waited:.1f} s: {culprits} [{text}]",
        )

    def spawn(self, program: Coroutine[Any, Any, T]) -> Waiting[T]:
        """See `Node`. The coroutine runs to its first wait now, and goes on when it is awaited."""
        try:
            waits_for = program.send(None)
        except StopIteration as stop:
            return _done(stop.value)

        def rest() -> T:
            waits_for.wait()
            return drive(program)

        return Waiting(rest)

    def restore(self, shared: Tree, own: Tree) -> tuple[int, Tree, Tree]:
        """See `Node`."""
        self._step, shared, own = self._recorder.restore(self.rank, shared, own)
        to = self.device
        return (
            self._step,
            map_tree(lambda tensor: tensor.to(to, copy=True), shared),
            map_tree(lambda tensor: tensor.to(to, copy=True), own),
        )

    def commit(self, step: int, loss: float, shared: Tree, own: Tree) -> None:
        """See `Node`."""
        self._step = step
        self.trace.end(self.rank, self.now())
        self._recorder.commit(self.rank, step, self.now(), loss, shared, own)

    def at_step(self, step: int) -> None:
        """Note the number of steps done, for error messages."""
        self._step = step

    def run(self, program: Coroutine[Any, Any, T]) -> T:
        """Run this rank's program to its end.

        Raises:
            RunError: naming the rank, host, step and call that failed, and who is late or gone.
        """
        try:
            result = drive(program)
        except Exception as error:
            if self.board is not None:
                problem = error.problem if isinstance(error, QuorateError) else f"{type(error).__name__}: {error}"
                self.board.post(failed=problem)
            raise
        self.trace.end(self.rank, self.now())
        return result

    def close(self) -> None:
        """Say that this rank has ended."""
        if self.board is not None:
            self.board.post(ended=True)
            self.board.close()

    def gather_trace(self) -> dict[str, Any]:
        """Join the traces of all ranks into a summary; every rank calls this, after the program."""
        mine = json.dumps(self.trace.summary()).encode()
        lengths = [torch.zeros(1, dtype=torch.int64) for _ in range(self.size)]
        dist.all_gather(lengths, torch.tensor([len(mine)]))
        longest = max(int(length) for length in lengths)
        if longest > _LARGEST_SUMMARY:
            raise RunError(f"a rank's trace has {longest} bytes, over {_LARGEST_SUMMARY}")
        padded = torch.zeros(longest, dtype=torch.uint8)
        padded[: len(mine)] = torch.frombuffer(bytearray(mine), dtype=torch.uint8)
        gathered = [torch.zeros_like(padded) for _ in range(self.size)]
        dist.all_gather(gathered, padded)
        parts = [
            json.loads(bytes(part[: int(length)].tolist())) for part, length in zip(gathered, lengths, strict=True)
        ]
        return _joined(parts)


def _joined(parts: list[dict[str, Any]]) -> dict[str, Any]:
    workers = [part["workers"][rank] for rank, part in enumerate(parts)]
    received: dict[int, int] = {}
    for _, dst, count, _ in (link for part in parts for link in part["links"]):
        received[dst] = received.get(dst, 0) + count
    for worker in workers:
        worker["received_bytes"] = received.get(worker["rank"], 0)
    until = min(part["timeline"]["until"] for part in parts)
    intervals = [
        each
        for rank, part in enumerate(parts)
        for each in part["timeline"]["intervals"]
        if each[0] == rank and each[2] < until
    ]
    return {
        "size": len(parts),
        "seconds": max(part["seconds"] for part in parts),
        "workers": workers,
        "links": sorted(link for part in parts for link in part["links"]),
        "timeline": {"until": until, "intervals": intervals},
    }


def _done(result: T) -> Waiting[T]:
    waiting = Waiting(lambda: result)
    waiting.wait()
    return waiting


def pack(message: Message) -> Tensor:
    """Return a message as one contiguous tensor: a single tensor as it is, several as their bytes in a row."""
    if len(message) == 1:
        return message[0].contiguous()
    return torch.cat([tensor.contiguous().reshape(-1).view(torch.uint8) for tensor in message])


def room_for(like: Message) -> Tensor:
    """Return an uninitialised tensor that a packed message of these shapes and dtypes fits into."""
    if len(like) == 1:
        return torch.empty_like(like[0], memory_format=torch.contiguous_format)
    return torch.empty(size_in_bytes(like), dtype=torch.uint8, device=like[0].device)


def unpack(packed: Tensor, like: Message) -> Message:
    """Invert `pack`; the tensors own their memory."""
    if len(like) == 1:
        return (packed,)
    pieces, offset = [], 0
    for tensor in like:
        count = size_in_bytes((tensor,))
        piece = torch.empty_like(tensor, memory_format=torch.contiguous_format)
        piece.reshape(-1).view(torch.uint8).copy_(packed[offset : offset + count])
        pieces.append(piece)
        offset += count
    return tuple(pieces)


def interface_towards(address: str) -> str | None:
    """Return the name of the network interface that packets to an address leave by; None if it can't be told.

    gloo advertises the address that the machine's name resolves to, which is often the wrong one: a hang.
    """
    import fcntl
    import struct

    try:
        with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as probe:
            probe.connect((address, 9))
            own = probe.getsockname()[0]
            for _, name in socket.if_nameindex():
                request = struct.pack("256s", name[:15].encode())
                try:
                    answer = fcntl.ioctl(probe.fileno(), 0x8915, request)  # SIOCGIFADDR
                except OSError:
                    continue
                if socket.inet_ntoa(answer[20:24]) == own:
                    return name
    except OSError:
        return None
    return None


def join(rank: int, size: int, store: Store, address: str, device: str, timeout: float) -> Store:
    """Join the process group, over the interface that leads to an address.

    Returns:
        The part of the store that the board may use.

    Raises:
        RunError: if not all ranks come, or the device is not there.
    """
    if device == "cuda":
        if not torch.cuda.is_available():
            raise RunError("the recipe wants GPUs, but torch sees none here", 'device = "cpu" in [processes]')
        torch.cuda.set_device(int(os.environ.get("LOCAL_RANK", rank)) % torch.cuda.device_count())
    interface = interface_towards(address)
    if interface is not None:
        for name in ("GLOO_SOCKET_IFNAME", "NCCL_SOCKET_IFNAME"):
            os.environ.setdefault(name, interface)
    host = socket.gethostname()
    store.set_timeout(datetime.timedelta(seconds=timeout))
    store.set(f"joined/{rank}", host)
    try:
        dist.init_process_group(
            "cpu:gloo,cuda:nccl" if device == "cuda" else "gloo",
            store=PrefixStore("group", store),
            rank=rank,
            world_size=size,
            timeout=datetime.timedelta(seconds=timeout),
        )
    except (RuntimeError, ValueError) as error:
        missing = [other for other in range(size) if not store.check([f"joined/{other}"])]
        who = f"ranks {missing} never came" if missing else "all came, but can't reach one another"
        raise RunError(
            f"rank {rank} ({host}, interface {interface}) could not join the group of {size}: {who}"
            f" [{str(error).splitlines()[0][:160]}]",
            "set GLOO_SOCKET_IFNAME to the interface that the machines share",
        ) from error
    return PrefixStore("board", store)
