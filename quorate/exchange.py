"""One meeting: every worker says its update, and every worker gets the combination.

The route is derived, not chosen: if decoding the sum of the messages is the sum of the decoded messages, and the
aggregator needs no more than that, the messages are summed on their way (all-reduce); otherwise they are gathered,
decoded and aggregated by everybody, or, if they say chosen entries, combined by a sparse collective. A codec that meets
more than once finds its own way.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field, replace
from functools import cached_property
from typing import Protocol, runtime_checkable

import torch
from torch import Tensor

from quorate.aggregators import Aggregator, what_it_is_given, what_it_needs
from quorate.aggregators.mean import mean
from quorate.codecs import Codec, State
from quorate.codecs.error_feedback import ErrorFeedback, entries
from quorate.codecs.identity import Identity
from quorate.collectives import Collective
from quorate.collectives.backend import backend
from quorate.combination import combine
from quorate.errors import RunError
from quorate.exchange_checks import expected, require_finite, require_sensible
from quorate.flat import Layout
from quorate.hostility import Hostility
from quorate.node import Heard, Node
from quorate.rand import At
from quorate.sparse_collectives import Entries, Load, Said, SparseCollective
from quorate.sparse_collectives._load import load_of, says_entries
from quorate.sparse_collectives.gather import gather
from quorate.suspicion import Judgement
from quorate.trees import branch, leaf
from quorate.wire import Message, Opens, Ragged, Wire, size_in_bytes


@runtime_checkable
class Meeting(Protocol):
    """What a codec has besides that needs more than one meeting, or all workers' messages to go on from."""

    async def meet(
        self, node: Node, update: Tensor, state: State, at: At, share: float, collective: Collective
    ) -> tuple[Tensor, State]:
        """Return the sum over all workers of their shares of what they say, and the state.

        Args:
            update: (d,); update and state are given away.
            share: this worker's, of the update.
            collective: what sums tensors.

        Returns:
            (d,), to be read only, equal on all workers to the bit, and the state after the meeting.
        """


@dataclass(frozen=True)
class Exchange:
    """What is said in a meeting, and how it is combined.

    Args:
        collective: how messages are summed on their way. Of all but `backend` and `direct`, one meeting may be under
            way at a time.
        sparse_collective: how messages that say chosen entries are combined.
        layout: the parameters that an update's entries are, if that is known.
        watch: is shown each update, or piece of one, before it is encoded; it must not write to it.
        hostility: makes some of the workers lie.
        judged: is told each worker's score where updates are combined one by one.

    Raises:
        Incompatible: if the codecs can't follow one another, the aggregator must see more than they let it, a
            collective is given but messages are not summed on their way, or a sparse one is but nothing is sparse.
    """

    codec: Codec = field(default_factory=Identity)
    aggregator: Aggregator = mean
    collective: Collective = backend
    sparse_collective: SparseCollective = gather
    layout: Layout | None = field(default=None, repr=False)
    watch: Callable[[Tensor, At], None] | None = field(default=None, repr=False, compare=False)
    hostility: Hostility | None = None
    judged: Callable[[Judgement], None] | None = field(default=None, repr=False, compare=False)

    def __post_init__(self) -> None:
        require_sensible(self)

    def laid_out(self, layout: object) -> Exchange:
        """Return the exchange of updates whose entries are the parameters that a layout, if it is one, names."""
        if not isinstance(layout, Layout):
            return self
        return replace(self, codec=self.codec.laid_out(layout), layout=layout)

    @cached_property
    def facts(self) -> Wire:
        """The facts that hold for what travels."""
        return self.codec.wire(Wire())

    @cached_property
    def sums_in_flight(self) -> bool:
        """Whether messages are summed on their way, rather than gathered and decoded one by one."""
        return self.facts.summable and self.facts.aligned and not self.sees_each

    @cached_property
    def staged(self) -> bool:
        """Whether forged updates are put in where updates are combined; see `Hostility`."""
        hostility = self.hostility
        return hostility is not None and (hostility.knows == "all" or not isinstance(self.codec, Identity))

    @cached_property
    def sees_each(self) -> bool:
        """Whether each worker's update is looked at where updates are combined, and not only their total."""
        return what_it_needs(self.aggregator) != Opens.TOTAL or self.staged

    @cached_property
    def _goes_on(self) -> bool:
        """Whether the aggregator starts from what the meeting before has come to, which is then kept in the state."""
        return "last" in what_it_is_given(self.aggregator)

    def init(self, like: Tensor) -> State:
        """Return the state before the first meeting: the codec's, and what the last meeting has come to if needed."""
        state = self.codec.init(like)
        return {"codec": state, "last": torch.full_like(like, torch.nan)} if self._goes_on else state

    def emits(self, like: Tensor) -> Message:
        """Return tensors of the shapes and dtypes that travel for an update like this one."""
        return self.codec.emits(like)

    def bytes_said(self, like: Tensor) -> int:
        """Return the bytes of one worker's message; at most, if messages differ in length."""
        return size_in_bytes(self.emits(like))

    async def __call__(
        self,
        node: Node,
        update: Tensor,
        state: State,
        at: At,
        weights: Sequence[float] | None = None,
        *,
        weighted: bool = False,
    ) -> tuple[Tensor, State]:
        """Meet once.

        Args:
            update: (d,), this worker's; it is given away.
            state: the codec's.
            weights: one number per worker, the same on all, which sum to 1; None: all equal.
            weighted: the update has been multiplied by its weight already; only if `sums_in_flight`.

        Returns:
            The combined update of shape (d,), to be read only, and the codec's new state.
        """
        share = 1.0 if weighted else 1 / node.size if weights is None else weights[node.rank]
        if self.sums_in_flight:
            if self.watch is not None:
                self.watch(update, at)
            if isinstance(self.codec, Identity):
                return await self.collective(node, self._forged(update, at), share), state
            self.require_finite(update, at)
            if isinstance(self.codec, Meeting):
                return await self.codec.meet(node, update, state, at, share, self.collective)
            if share != 1:
                update.mul_(share)
            head, side, state = self.codec.encode(update, state, at)
            total = await self.collective(node, head)
            return self.codec.decode(total, side, update, at), state
        last = leaf(state, "last") if self._goes_on else None
        message, state = self.say(update, state, at)
        most = self.emits(update)
        if self.sees_each:
            heard = await node.all_gather(message, most)
            total = self._once(heard, lambda: self._combined(heard, most, update, at, weights, last), weights)
            return total, {**state, "last": total} if self._goes_on else state

        def total_of(heard: Sequence[Message]) -> Tensor:
            return self._once(heard, lambda: self._total(heard, most, zeros(), at, weights), weights)

        def own() -> Entries:
            head, *side = message
            return Entries(*entries(self.codec, head, tuple(side), update, at))

        def zeros() -> Tensor:
            memory = update.untyped_storage().data_ptr()
            inside = any(tensor.untyped_storage().data_ptr() == memory for tensor in message)
            return torch.zeros_like(update) if inside else update.zero_()

        said = Said(message, most, share, total_of, own, zeros, lambda: self.load(update), self.remembers)
        total, left = await self.sparse_collective(node, said)
        if left is not None and isinstance(self.codec, ErrorFeedback):
            state = self.codec.returned(state, left.indices.to(update.device), left.values.to(update.device))
        return total, state

    @cached_property
    def meets_itself(self) -> bool:
        """Whether the codec finds its own way, by meetings of all workers."""
        return isinstance(self.codec, Meeting)

    @cached_property
    def combines_entries(self) -> bool:
        """Whether messages say chosen entries, of which a sparse collective can form the sum."""
        return says_entries(self.codec) and not self.sees_each

    @property
    def remembers(self) -> bool:
        """Whether what a message does not say, or what is left out of a sum, is added to the next update."""
        return isinstance(self.codec, ErrorFeedback)

    def load(self, like: Tensor) -> Load:
        """Return what a meeting of sparse messages has to carry, for updates like this one."""
        return load_of(self.codec, like)

    def say(self, update: Tensor, state: State, at: At) -> tuple[Message, State]:
        """Encode an update, which is given away, into a message that one peer can decode by `hear`.

        Raises:
            RunError: if an entry of the update is not finite, or the codec needs meetings of all workers.
        """
        if self.meets_itself:
            raise RunError(
                f"{self.codec} needs meetings of all workers, but here a worker talks to single ones",
                'a program in which all meet, e.g. name = "local_sgd" in [program], or another codec',
            )
        if self.watch is not None:
            self.watch(update, at)
        self.require_finite(update, at)
        ragged = isinstance(self.emits(update), Ragged)
        own = branch(state, "codec") if self._goes_on else state
        head, side, own = self.codec.encode(self._forged(update, at), own, at)
        return Ragged((head, *side)) if ragged else (head, *side), {**state, "codec": own} if self._goes_on else own

    def _forged(self, update: Tensor, at: At) -> Tensor:
        if self.hostility is None or self.staged:
            return update
        return self.hostility.forged(update, at, self.aggregator)

    def hear(self, message: Message, like: Tensor, at: At) -> Tensor:
        """Decode one worker's message to an update like this one; `at` is where it was made."""
        head, *side = message
        return self.codec.decode(head, tuple(side), like, at)

    def _once(self, heard: Sequence[Message], make: Callable[[], Tensor], weights: Sequence[float] | None) -> Tensor:
        """Combine what was heard, unless another worker of the simulation, which was handed the same, has done so."""
        return heard.once(make, self.codec, self.aggregator, weights) if isinstance(heard, Heard) else make()

    def _total(
        self, heard: Sequence[Message], most: Message, total: Tensor, at: At, weights: Sequence[float] | None
    ) -> Tensor:
        """Add the weighted mean to a total (d,), in place."""
        for rank, (head, *side) in enumerate(expected(heard, most, self.codec)):
            share = 1 / len(heard) if weights is None else weights[rank]
            self.codec.add(total, head, tuple(side), share, at._replace(rank=rank))
        return total

    def _combined(
        self,
        heard: Sequence[Message],
        most: Message,
        like: Tensor,
        at: At,
        weights: Sequence[float] | None,
        last: Tensor | None,
    ) -> Tensor:
        """Decode what was heard, and aggregate."""
        each = enumerate(expected(heard, most, self.codec))
        decoded = [self.hear(message, like, at._replace(rank=rank)) for rank, message in each]
        return self.combine(decoded, weights, at, range(len(decoded)), last=_known(last))

    def require_finite(self, update: Tensor, at: At) -> None:
        """Refuse NaN and infinity, which a codec would hide, spread or keep for ever; costs one pass to read.

        Raises:
            RunError: naming step, rank and parameter.
        """
        if not isinstance(self.codec, Identity):
            require_finite(update, at, f"{self.codec} can't send", self.layout)

    def combine(
        self,
        updates: Sequence[Tensor],
        weights: Sequence[float] | None,
        at: At,
        ranks: Sequence[int],
        *,
        last: Tensor | None = None,
        peer: int | None = None,
    ) -> Tensor:
        """Aggregate updates of shape (d,) that were heard one by one; see `quorate.combination.combine`."""
        hostility = self.hostility if self.staged else None
        return combine(
            self.aggregator, updates, weights, at, ranks, last=last, peer=peer, hostility=hostility, judged=self.judged
        )


def _known(last: Tensor | None) -> Tensor | None:
    """Return what the last meeting has come to, None before the first, of which checkpoints hold NaN."""
    return None if last is None or bool(last[:1].isnan().any()) else last
