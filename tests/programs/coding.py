"""Codecs that each program is tested with, and one that needs several meetings."""

from __future__ import annotations

from dataclasses import dataclass

from torch import Tensor

from quorate.codecs import Plain, State
from quorate.codecs.error_feedback import ErrorFeedback
from quorate.codecs.identity import Identity
from quorate.codecs.top_k import TopK
from quorate.collectives import Collective
from quorate.exchange import Exchange
from quorate.node import Node
from quorate.rand import At
from quorate.trees import leaf

REMEMBER = {
    "plain": ErrorFeedback(TopK(0.2)),
    "momentum": ErrorFeedback(TopK(0.2), momentum=0.5),
    "warm_up": ErrorFeedback(TopK(0.1), warm_up=4),
}
"""Error feedback of every kind; messages of the last differ in length."""

CODED = {
    (program, kind): Exchange(codec)
    for program in ("synchronous_sgd", "local_sgd", "diloco", "parameter_server", "downpour")
    for kind, codec in REMEMBER.items()
}
CODED |= {(program, "plain"): Exchange(TopK(0.2)) for program in ("gossip", "easgd")}


@dataclass(frozen=True)
class Together(Plain):
    """Sum what all say of half of their updates, and the rest in the next meeting."""

    def init(self, like: Tensor) -> State:
        return {"rest": like.new_zeros(len(like))}

    encode, decode = Identity.encode, Identity.decode

    async def meet(
        self, node: Node, update: Tensor, state: State, at: At, share: float, collective: Collective
    ) -> tuple[Tensor, State]:
        whole = leaf(state, "rest") + update
        rest = whole.clone()
        rest[at.step % 2 :: 2] = 0
        first = await collective(node, whole - rest, share)
        return await collective(node, first.clone(), 1 / node.size), {"rest": rest}
