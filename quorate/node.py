"""The world as one worker sees it.

A program is `async def program(node, training, exchange, ...) -> Tensor`. Every call on the node starts its work at
once and returns an awaitable: what stands between the call and its `await` overlaps with it.

Who may write to a tensor:

- what is given to `all_reduce`, or to `compute(..., donate=True)`, is given away: it must not be used again;
- what is given to `send`, `all_gather` or a plain `compute` may be read, and, after the await, donated;
- what is received, and what a donated computation returns, may be shared with other workers: read it, or donate it.

The simulator's paranoid mode checks all three.
"""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Coroutine, Mapping, Sequence
from typing import Any, Protocol, TypeVar

from torch import Tensor

from quorate.errors import RunError
from quorate.trees import Tree
from quorate.wire import Message

T = TypeVar("T")

FEW = 32
"""Workers up to which everybody talks to everybody over connections of two, where it is not a must."""


class Departed(RunError):
    """A worker has left: it has crashed, or can't be reached any more.

    Args:
        rank: who.
    """

    def __init__(self, rank: int, why: str) -> None:
        super().__init__(f"rank {rank} has left: {why}")
        self.rank = rank


class Heard(list[Message]):
    """Messages that all workers of a simulation are handed as one list: what one makes of it serves the others."""

    def __init__(self, messages: Sequence[Message]) -> None:
        super().__init__(messages)
        self._made: tuple[tuple[object, ...], Any] | None = None

    def once(self, make: Callable[[], T], *by: object) -> T:
        """Return what `make` returns, or has returned when the same objects were named before."""
        if self._made is None or not all(one is other for one, other in zip(self._made[0], by, strict=True)):
            self._made = by, make()
        made: T = self._made[1]
        return made


class Node(Protocol):
    """One worker's connection to the others, whatever engine runs it."""

    @property
    def rank(self) -> int:
        """This worker's number, 0 .. size - 1."""

    @property
    def size(self) -> int:
        """The number of workers."""

    @property
    def talks_alone(self) -> bool:
        """Whether it has connections of two workers, for tags from 1; the same on all workers."""

    def now(self) -> float:
        """Return seconds since the run began: virtual in the simulator, real elsewhere."""

    def compute(self, function: Callable[..., T], *args: Any, samples: float = 0, donate: bool = False) -> Awaitable[T]:
        """Run a function on this worker, one after the other; where the program waits for others, if not before.

        Args:
            function: depends on nothing but its arguments, and writes to none of them unless they are donated.
            samples: how many training samples it handles; the simulator charges time for them.
            donate: the arguments are given away, so that the function may work in place.
        """

    def send(self, dst: int, message: Message, tag: int = 0) -> Awaitable[None]:
        """Send tensors to a worker; messages of one tag arrive in the order in which they were sent.

        Args:
            message: if it is `Ragged`, its tensors may have any number of rows, and so may the next message's.
            tag: what the message is about, from 0; a receiver takes one tag at a time. Those from 1 are for
                conversations that outlive a peer: real processes keep a connection of the two workers alone for them.

        Raises:
            Departed: at the await, if the peer has left and the tag is not 0.
        """

    def recv(self, src: int | None, like: Message, tag: int = 0) -> Awaitable[tuple[int, Message]]:
        """Receive the next message from a worker (None: from whoever comes first).

        Args:
            like: tensors of the shapes and dtypes that are expected; another message is an error. If it is `Ragged`,
                so must be what is sent, with any numbers of rows, or, where it has rows, at most so many.

        Returns:
            The sender's rank and the message.

        Raises:
            Departed: at the await, if the peer has left and the tag is not 0; with None, once for each that leaves.
        """

    def all_reduce(self, tensor: Tensor, scale: float = 1.0) -> Awaitable[Tensor]:
        """Sum `scale * tensor` over all workers; every worker gets the same bits.

        All workers call the collectives (`all_reduce`, `all_gather`) in the same order, with equal shapes and dtypes.

        Args:
            scale: this worker's; multiplied in before the sum, on real processes in place.
        """

    def all_gather(self, message: Message, like: Message | None = None) -> Awaitable[list[Message]]:
        """Give every worker the messages of all, in the order of ranks.

        Args:
            message: if it is `Ragged`, it goes to every other worker by the connections of two.
            like: what the others' look like, of a ragged message at most; None: no more is known than their dtypes. If
                it is given, and there are few workers, messages that are not ragged may go the same way.
        """

    def spawn(self, program: Coroutine[Any, Any, T]) -> Awaitable[T]:
        """Start a coroutine beside the caller; on a rank that starts several, they make progress in that order."""

    def background(self, program: Coroutine[Any, Any, T]) -> Awaitable[T]:
        """Start a coroutine that serves messages of tags from 1 while the caller goes on; it calls no collectives.

        The coroutines of one worker never run at once: another goes on only where one waits or computes.
        """

    def saves(self, step: int) -> bool:
        """Return whether a checkpoint is taken when all workers have done `step` steps.

        A program whose workers do not wait for one another lets them come to rest before such a commit.
        """

    def evaluates(self, step: int) -> bool:
        """Return whether the parameters that rank 0 commits at a step are evaluated; other steps need none."""

    def restore(self, shared: Tree, own: Tree) -> tuple[int, Tree, Tree]:
        """Return (steps done, shared state, own state): the given ones, or a checkpoint's when a run is resumed."""

    def commit(
        self, step: int, loss: float, shared: Tree, own: Tree, metrics: Mapping[str, float] | None = None
    ) -> None:
        """Declare a step done, between two exchanges: metrics, evaluations and checkpoints are taken here.

        Every worker commits every step, with no message of its own still on the way if the step is saved.

        Args:
            step: the number of steps done, from 1.
            loss: this worker's training loss in the step; NaN if it does not train.
            shared: state that is equal on all workers at this step.
            own: this worker's state. On rank 0, one of the two holds `parameters`, what `training.evaluate` takes.
            metrics: further numbers, of which rank 0's are recorded.
        """
