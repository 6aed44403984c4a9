"""Members of a new epoch compare what they have committed, and those behind copy the state of one that is not.

It travels over the new process group as safetensors, which can be read without executing anything; its length is
checked before memory is taken.
"""

from __future__ import annotations

import torch
from safetensors import SafetensorError
from safetensors.torch import load, save
from torch import Tensor

from quorate.engines.elastic_node import ElasticNode, Held, Lineage
from quorate.errors import RunError
from quorate.named_state import of_newcomer
from quorate.trees import Tree, branch, flatten, nest

_ROW = 4  # number, stamp and step of the lineage, position; a clock in microseconds follows


def agree_on_state(node: ElasticNode, largest: int) -> Held:
    """Bring all members to the newest state; every member calls this first thing in an epoch.

    Args:
        largest: bytes of state that are accepted from another member.

    Returns:
        What this worker goes on from. Its own state is its own where it was at the newest step, else another's without
        what that one's codecs have still to say.

    Raises:
        Over: if a member is lost on the way.
        RunError: if what another member sends can't be a state.
    """
    mine = node.held
    row = torch.tensor([*mine.lineage, mine.position, round(node.now() * 1e6)])
    told = [tuple(row.tolist()) for (row,) in node.all_gather((row,)).wait()]
    node.set_clock(max(row[_ROW] for row in told) / 1e6)
    rows = [row[:_ROW] for row in told]
    newest = max(rows)
    if any(entry < 0 for entry in newest):
        raise RunError(f"a member claims to have done {newest[2]} steps with {newest[3]} samples")
    have = [rank for rank, row in enumerate(rows) if row == newest]
    lack = [rank for rank, row in enumerate(rows) if row != newest]
    if newest[2] == 0:
        return mine
    for number, rank in enumerate(lack):
        source = have[number % len(have)]
        if node.rank == source:
            _send(node, rank, mine)
        elif node.rank == rank:
            return _receive(node, source, Lineage(*newest[:3]), newest[3], largest)
    return mine


def _send(node: ElasticNode, rank: int, held: Held) -> None:
    packed = torch.frombuffer(bytearray(save(flatten({"shared": held.shared, "own": held.own}))), dtype=torch.uint8)
    node.send(rank, (torch.tensor([len(packed)]),)).wait()
    node.send(rank, (packed,)).wait()


def _receive(node: ElasticNode, source: int, lineage: Lineage, position: int, largest: int) -> Held:
    _, (length,) = node.recv(source, (torch.empty(1, dtype=torch.int64),)).wait()
    if not 0 < int(length) <= largest:
        raise RunError(f"rank {source} offers {int(length)} bytes of state, which should be 1 to {largest}")
    _, (packed,) = node.recv(source, (torch.empty(int(length), dtype=torch.uint8),)).wait()
    shared, own = unpacked(packed, source)
    return Held(lineage, position, shared, of_newcomer(own))


def unpacked(packed: Tensor, source: int) -> tuple[Tree, Tree]:
    """Read a state that rank `source` has sent.

    Raises:
        RunError: if it is none.
    """
    try:
        tree = nest(load(packed.numpy().tobytes()))
        return branch(tree, "shared"), branch(tree, "own")
    except (SafetensorError, ValueError, TypeError, AttributeError) as error:
        raise RunError(f"what rank {source} sent is no state: {type(error).__name__}: {error}") from error
