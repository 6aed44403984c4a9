"""Which exchanges make sense, and which updates can be said in one."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

import torch
from torch import Tensor

from quorate.aggregators import name_of, what_it_needs
from quorate.codecs import Codec
from quorate.codecs.error_feedback import ErrorFeedback
from quorate.collectives.backend import backend
from quorate.errors import RunError
from quorate.flat import Layout
from quorate.rand import At
from quorate.sparse_collectives import has_left_out
from quorate.sparse_collectives._load import says_entries
from quorate.sparse_collectives.gather import gather
from quorate.wire import Message, Opens, Ragged, described, require

if TYPE_CHECKING:
    from quorate.exchange import Exchange


def require_sensible(exchange: Exchange) -> None:
    """Refuse an exchange whose parts can't work together; see `Exchange`."""
    codec, aggregator = exchange.codec, exchange.aggregator
    only_total = what_it_needs(aggregator) == Opens.TOTAL
    who = "a hostile worker that knows all" if only_total else name_of(aggregator)
    require(
        exchange.facts.opens >= (Opens.EACH if exchange.sees_each else Opens.TOTAL),
        f"{who} needs each worker's update, but {codec} lets only their total be opened",
        "use the aggregator `mean`",
    )
    require(
        exchange.collective is backend or exchange.sums_in_flight,
        f"the collective `{name_of(exchange.collective)}` has nothing to sum: messages are gathered and decoded",
        "leave out [collective]",
    )
    require(
        exchange.sums_in_flight or not exchange.meets_itself,
        f"{codec} sums on the way, but {who} needs each worker's update",
        'name = "mean" in [aggregator], or another codec',
    )
    if exchange.sparse_collective is gather:
        return
    name, without = name_of(exchange.sparse_collective), "leave out [sparse_collective]"
    require(
        says_entries(codec),
        f"the sparse collective `{name}` combines chosen entries, but {codec} begins with no sparsifier",
        f'{without}, or put e.g. [[codec]] name = "top_k" first',
    )
    require(
        not exchange.sees_each,
        f"the sparse collective `{name}` makes a sum, but {who} needs each worker's update",
        without,
    )
    require(
        isinstance(codec, ErrorFeedback) or not has_left_out(exchange.sparse_collective),
        f"the sparse collective `{name}` leaves entries out of the sum, which nobody would remember",
        'put [[codec]] name = "error_feedback" first, or name = "ring" in [sparse_collective]',
    )


def expected(heard: Sequence[Message], most: Message, codec: Codec) -> Sequence[Message]:
    """Return messages, refusing other lengths than the codec declares; of ragged ones, the engine has seen to it."""
    shapes = [each.shape for each in most]
    for rank, message in enumerate(heard):
        if not isinstance(most, Ragged) and [each.shape for each in message] != shapes:
            raise RunError(
                f"rank {rank} said {described(tuple(message))}, but {codec} says {described(most)}",
                "start all workers with the same recipe, on the same data",
            )
    return heard


def require_finite(update: Tensor, at: At, what: str, layout: Layout | None) -> None:
    """Refuse NaN and infinity in an update (d,); costs one pass to read.

    Args:
        what: who can't do what with it.
        layout: the parameters that its entries are, if that is known.

    Raises:
        RunError: naming step, rank and parameter.
    """
    if torch.isfinite(torch.dot(update, update)):
        return
    wrong = (~torch.isfinite(update)).nonzero()
    if not len(wrong):
        return
    place, name = int(wrong[0]), ""
    for parameter, shape, offset in layout.places if layout is not None else ():
        if offset <= place < offset + shape.numel():
            name = f" of `{parameter}`"
    raise RunError(
        f"step {at.step + 1}, rank {at.rank}: entry {place}{name} of the update is {float(update[place])},"
        f" which {what}",
        "lower the learning rate, and look for NaN or huge values in the data",
    )
