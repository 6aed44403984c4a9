"""How sparse messages are combined: programs that add up vectors of which each worker says a few entries.

A sparse collective is a function in a file of its name, `(node, mine: Said) -> Sum`, and beside it stands
`cost(n, load, latency, rate)`: the seconds it should take between n workers whose links are equal and otherwise idle.
All workers end with the same bits, on the simulator and on real processes.

Messages of one meeting have a tag of their own, so that several meetings may be under way at once; all workers begin
them in the same order.
"""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any, NamedTuple, Protocol, TypeVar
from weakref import WeakKeyDictionary

import torch
from torch import Tensor

from quorate import collectives, index_coding
from quorate.errors import RunError
from quorate.node import Node
from quorate.wire import RAGGED_BYTES, Message, Ragged

F = TypeVar("F", bound=Callable[..., Any])

AT_ONCE = 16
"""Meetings of a worker that may be under way at once."""
TAGS = range((1 << 20) - AT_ONCE, 1 << 20)
"""The tags of their messages, which no program may use."""


class Entries(NamedTuple):
    """Some of a vector's entries: their indices (k,), int64, ascending, each there once, and their values (k,)."""

    indices: Tensor
    values: Tensor


class Load(NamedTuple):
    """What a sparse meeting has to carry, as far as it is known before: equal on all workers.

    Args:
        d: entries of the vector.
        width: bytes of an entry.
        entries: how many a worker says.
        said: bytes of its encoded message.
    """

    d: int
    width: int
    entries: int
    said: float

    @property
    def dense(self) -> int:
        """The bytes of the whole vector."""
        return self.d * self.width


@dataclass(frozen=True)
class Said:
    """What one worker says in a meeting.

    Args:
        message: as it is encoded.
        most: what everybody's message looks like; if it is `Ragged`, at most.
        share: what this worker's entries are multiplied by before they are added.
        total: adds up encoded messages, one per rank, each times its rank's share, to a vector (d,).
        entries: returns what this worker's own message says, not yet multiplied.
        zeros: returns a vector (d,) of zeros; to be called once, when the message is not needed any more.
        load: returns what the meeting has to carry.
        remembers: whether entries that are left out of the sum may be given back.
    """

    message: Message
    most: Message
    share: float
    total: Callable[[Sequence[Message]], Tensor]
    entries: Callable[[], Entries]
    zeros: Callable[[], Tensor]
    load: Callable[[], Load]
    remembers: bool


class Sum(NamedTuple):
    """What a meeting comes to.

    Args:
        total: (d,), to be read only.
        left: entries that this worker has to add to what it says next, because the total does not hold them.
    """

    total: Tensor
    left: Entries | None = None


class SparseCollective(Protocol):
    """A sum of sparse vectors."""

    def __call__(self, node: Node, mine: Said, /) -> Awaitable[Sum]:
        """Add up what all workers say."""


class SparseCost(Protocol):
    """What a sparse meeting takes, in closed form."""

    def __call__(self, n: int, load: Load, latency: float, rate: float) -> float:
        """Return seconds.

        Args:
            n: workers.
            load: what they have to say; which entries is taken to be independent between workers.
            latency: seconds one way between two workers.
            rate: bytes per second that each worker can send, and receive at the same time.
        """


def leaves_out(collective: F) -> F:
    """Declare that a sparse collective leaves entries out of the sum, which a worker must remember."""
    collective.leaves_out = True  # type: ignore[attr-defined]
    return collective


def has_left_out(collective: Any) -> bool:
    """Return whether a sparse collective has declared that it leaves entries out."""
    return bool(getattr(getattr(collective, "func", collective), "leaves_out", False))


def cost_of(collective: Any) -> SparseCost | None:
    """Return the `cost` that stands in the file of a sparse collective; None if there is none."""
    return collectives.cost_of(collective)  # type: ignore[return-value]


@contextmanager
def tagged(node: Node) -> Iterator[int]:
    """Take part in the next meeting; yields the tag of its messages, which is the same on all workers.

    Raises:
        RunError: if too many are under way.
    """
    begun, under_way = _MEETINGS.setdefault(node, ([0], set()))
    tag = TAGS[begun[0] % AT_ONCE]
    begun[0] += 1
    if tag in under_way:
        raise RunError(
            f"rank {node.rank} begins a sparse meeting while {AT_ONCE} are under way",
            'name = "gather" in [sparse_collective], or larger buckets',
        )
    under_way.add(tag)
    try:
        yield tag
    finally:
        under_way.discard(tag)


_MEETINGS: WeakKeyDictionary[Node, tuple[list[int], set[int]]] = WeakKeyDictionary()


def density(share: float, workers: int) -> float:
    """Return the share of coordinates that at least one of some workers says, each a `share` by its own choice."""
    return 1.0 - (1.0 - share) ** workers


def written_bytes(count: float, length: int, width: int) -> float:
    """Return the bytes that `written` makes of a number of entries of a vector of some length."""
    whole = round(count)
    return float(min(length * width, whole * width + index_coding.size(whole, length)))


def written(part: Entries, length: int) -> Ragged:
    """Code entries of a vector: values and coded indices, or, if that is shorter, all `length` values."""
    indices, values = part
    count, width = len(values), values.element_size()
    if count * width + index_coding.size(count, length) < length * width:
        return Ragged((values, index_coding.encode(indices, length)))
    if count < length:
        values = values.new_zeros(length).index_copy_(0, indices, values)
    return Ragged((values, torch.empty(0, dtype=index_coding.DTYPE)))


def read(message: Message, length: int) -> Entries:
    """Invert `written`; what was sent whole comes back with all its indices.

    Raises:
        QuorateError: if a message's bytes are no such entries.
    """
    values, coded = message
    if len(values) == length and not len(coded):
        return Entries(torch.arange(length), values)
    return Entries(index_coding.decode(coded, len(values), length), values)


def expected(values: Tensor, length: int) -> Ragged:
    """Return what a message of `written` looks like at most."""
    rows = length if length * (values.element_size() + 4) <= RAGGED_BYTES else 0
    meta = values.to("meta")
    return Ragged((meta.new_empty(rows), meta.new_empty(4 * rows, dtype=index_coding.DTYPE)))


def merged(one: Entries, other: Entries, length: int) -> Entries:
    """Add two sparse vectors of some length; which is the first makes no difference to a bit."""
    if len(one.indices) < len(other.indices):
        one, other = other, one
    if len(one.indices) == length:
        return Entries(one.indices, one.values.index_add(0, other.indices, other.values))
    indices, places = torch.cat([one.indices, other.indices]).unique(return_inverse=True)
    both = torch.cat([one.values, other.values])
    return Entries(indices, both.new_zeros(len(indices)).index_add_(0, places, both))


def own_entries(mine: Said) -> Entries:
    """Return what a worker says, on the CPU."""
    indices, values = mine.entries()
    return Entries(indices.cpu(), values.cpu())
