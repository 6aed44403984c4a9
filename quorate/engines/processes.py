"""Real workers on torch.distributed: gloo for tensors on the CPU, NCCL for those on a GPU.

What a call starts is under way at once; awaiting it blocks the process until it is through. A group in which one call
has timed out or failed can't be used again: the run ends with an error that names the culprit, and is resumed from its
checkpoint. Neither gloo nor the stores know passwords or encryption: use a network that you trust.
"""

from __future__ import annotations

import socket
import time
from collections import deque
from collections.abc import Callable, Coroutine, Iterator, Mapping
from contextlib import contextmanager
from typing import Any, TypeVar

import torch
import torch.distributed as dist
from torch import Tensor
from torch.distributed.distributed_c10d import Store

from quorate.engines import Forgetful, PeerError, Recorder, after, stopped
from quorate.engines.board import Board
from quorate.engines.conversations import Conversations
from quorate.engines.packing import Receiving, Sending, pack, unpack
from quorate.engines.strands import Strands
from quorate.engines.waiting import Waiting, done, drive
from quorate.errors import QuorateError, RunError
from quorate.node import FEW
from quorate.trace import Trace
from quorate.trees import Tree, map_tree
from quorate.wire import Message, Ragged, as_ragged, require_carried, size_in_bytes

T = TypeVar("T")


class ProcessNode:
    """This process as one worker of the default process group."""

    def __init__(
        self,
        *,
        recorder: Recorder | None = None,
        trace: Trace | None = None,
        store: Store | None = None,
        device: torch.device | str = "cpu",
        timeout: float = 300.0,
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
        self._strands, self._timeout = Strands(), timeout
        self._store = store
        self.talks_alone = store is not None and self.device.type != "cuda"
        self._talks: Conversations | None = None
        self.board = Board(store, self.rank, self.size, self.host, self._state) if store is not None else None

    @contextmanager
    def waiting(self, what: str) -> Iterator[None]:
        """Do what was put off, and let other coroutines of this rank go on while this one waits."""
        self._strands.catch_up()
        self._doing = f"waiting in {what}"
        with self._strands.aside():
            yield
        self._doing = "computing"

    @property
    def at(self) -> tuple[int, int]:
        """The step that this rank is in, from 1, and how many calls on the network it has begun."""
        return self._step + 1, self._calls

    def _state(self) -> tuple[int, int, str]:
        return self._step + 1, self._calls, self._doing

    def now(self) -> float:
        """Return real seconds since the run began; time between a crash and the resumption does not count."""
        return self._seconds_before + time.perf_counter() - self._began

    def compute(self, function: Callable[..., T], *args: Any, samples: float = 0, donate: bool = False) -> Waiting[T]:
        """See `Node`. The function runs when the result is asked for, or before the program waits for anything else."""

        def run() -> T:
            start = self.now()
            try:
                result = function(*args)
            except RunError:
                raise
            except QuorateError as error:
                raise stopped(self.rank, self._step + 1, error) from error
            self.trace.busy(self.rank, "computing", start, self.now())
            return result

        return self._strands.later(run)

    def send(self, dst: int, message: Message, tag: int = 0) -> Waiting[None]:
        """See `Node`."""
        if not 0 <= dst < self.size:  # gloo would crash
            raise RunError(f"rank {self.rank} sends to rank {dst}, but there are {self.size} ranks")
        require_carried(message, tag)
        if tag:
            self._calls += 1
            return self._conversations().send(dst, message, tag)
        if dst == self.rank:
            self._own.append(message)
            return done(None)
        return self._begin(
            f"send to rank {dst}",
            lambda: Sending(message, dst),
            lambda _: None,
            lambda start: self.trace.sent(self.rank, dst, size_in_bytes(message), start, self.now()),
        )

    def recv(self, src: int | None, like: Message, tag: int = 0) -> Waiting[tuple[int, Message]]:
        """See `Node`."""
        if src is not None and not 0 <= src < self.size:
            raise RunError(f"rank {self.rank} receives from rank {src}, but there are {self.size} ranks")
        require_carried(like, tag)
        if tag:
            return self._conversations().recv(src, like, tag)
        if src == self.rank:
            return Waiting(self._from_itself)
        if src is None and self.device.type == "cuda":
            raise RunError("NCCL can't receive from whoever comes first", 'device = "cpu" in [processes]')
        return self._begin(
            f"recv from {'any rank' if src is None else f'rank {src}'}",
            lambda: Receiving(like, src),
            lambda coming: (coming.src, coming.message()),
        )

    def background(self, program: Coroutine[Any, Any, T]) -> Waiting[T]:
        """See `Node`."""
        return self._strands.start(program)

    def _conversations(self) -> Conversations:
        if self._talks is None:
            if self._store is None or not self.talks_alone:
                raise RunError(
                    "messages of tags from 1 go by gloo, between workers that share a store and tensors on the CPU",
                    'device = "cpu" in [processes]',
                )
            self._talks = Conversations(self, self._store, self._strands, self._timeout)
        return self._talks

    def _from_itself(self) -> tuple[int, Message]:
        if not self._own:
            raise RunError(f"rank {self.rank} waits for a message from itself that it has not sent")
        return self.rank, self._own.popleft()

    def all_reduce(self, tensor: Tensor, scale: float = 1.0) -> Waiting[Tensor]:
        """See `Node`. The sum is written into the tensor that was given."""
        if scale != 1:
            tensor.mul_(scale)
        count = round(2 * (self.size - 1) * size_in_bytes((tensor,)) / self.size)
        return self._begin(
            "all_reduce",
            lambda: dist.all_reduce(tensor, async_op=True),
            lambda _: tensor,
            lambda start: self._met(count, 2 * (self.size - 1), start),
        )

    def all_gather(self, message: Message, like: Message | None = None) -> Waiting[list[Message]]:
        """See `Node`. Messages that are not ragged must be equally long on all ranks."""
        if like is not None and self.talks_alone and self.size <= FEW:
            message = as_ragged(message) or message
        if isinstance(message, Ragged):
            self._calls += 1
            return self._conversations().all_gather(message, None if like is None else Ragged(like))
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
            raise self.failure(what, step, calls, start, error) from error

        def block() -> None:
            try:
                with self.waiting(what):
                    work.wait()
            except RuntimeError as error:
                raise self.failure(what, step, calls, start, error) from error
            except QuorateError as error:
                raise stopped(self.rank, step, error) from error

        def through() -> T:
            if record is not None:
                record(start)
                self.trace.busy(self.rank, "sending", start, self.now())
            return finish(work)

        return Waiting(through, block)

    def failure(self, what: str, step: int, calls: int, start: float, error: Exception) -> PeerError:
        """Return the error of a call that has failed, which names the ranks that hold it up."""
        waited = self.now() - start
        culprits = self.board.culprits(calls) if self.board is not None else "no board was kept to tell who is late"
        text = str(error).splitlines()[0][:160] if str(error) else type(error).__name__
        return PeerError(
            f"rank {self.rank} ({self.host}), step {step}: {what} failed {after(waited)}: {culprits} [{text}]",
        )

    def spawn(self, program: Coroutine[Any, Any, T]) -> Waiting[T]:
        """See `Node`. The coroutine runs to its first wait now, and goes on when it is awaited."""
        try:
            waits_for = program.send(None)
        except StopIteration as stop:
            return done(stop.value)

        def rest() -> T:
            self._strands.catch_up()
            return drive(program, waits_for)

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

    def saves(self, step: int) -> bool:
        """See `Node`."""
        return self._recorder.saves(step)

    def evaluates(self, step: int) -> bool:
        """See `Node`."""
        return self._recorder.evaluates(step)

    def commit(
        self, step: int, loss: float, shared: Tree, own: Tree, metrics: Mapping[str, float] | None = None
    ) -> None:
        """See `Node`."""
        self._step = step
        self.trace.end(self.rank, self.now())
        self._recorder.commit(self.rank, step, self.now(), loss, shared, own, metrics)

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
        if self._talks is not None:
            self._talks.close()
        if self.board is not None:
            self.board.post(ended=True)
            self.board.close()
