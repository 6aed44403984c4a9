from __future__ import annotations

import pickle
import re
import threading
from collections import deque
from types import SimpleNamespace

import pytest
import torch
from safetensors.torch import save

from quorate.engines.elastic_node import Held, Lineage, nothing
from quorate.engines.handing_over import agree_on_state, unpacked
from quorate.engines.waiting import done
from quorate.errors import RunError


class Group:
    """Nodes in threads, with queues between them."""

    def __init__(self, held: list[Held]) -> None:
        self.size, self.barrier = len(held), threading.Barrier(len(held))
        self.rows: dict[int, torch.Tensor] = {}
        self.queues = {(a, b): deque() for a in range(self.size) for b in range(self.size)}
        self.nodes = [Node(self, rank, each) for rank, each in enumerate(held)]

    def run(self, largest: int = 1 << 20) -> list[Held | Exception]:
        results: dict[int, Held | Exception] = {}

        def one(node: Node) -> None:
            try:
                results[node.rank] = agree_on_state(node, largest)  # type: ignore[arg-type]
            except RunError as error:
                results[node.rank] = error

        threads = [threading.Thread(target=one, args=(node,)) for node in self.nodes]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join(20)
        return [results[rank] for rank in range(self.size)]


class Node(SimpleNamespace):
    def __init__(self, group: Group, rank: int, held: Held) -> None:
        super().__init__(group=group, rank=rank, size=group.size, held=held, clock=float(rank))

    def now(self):
        return self.clock

    def set_clock(self, seconds):
        self.clock = seconds

    def all_gather(self, message):
        self.group.rows[self.rank] = message[0]
        self.group.barrier.wait(20)
        return done([(self.group.rows[rank],) for rank in range(self.size)])

    def send(self, dst, message):
        self.group.queues[self.rank, dst].append(message)
        return done(None)

    def recv(self, src, like):
        queue = self.group.queues[src, self.rank]
        while not queue:
            pass
        message = queue.popleft()
        assert [each.dtype for each in message] == [each.dtype for each in like]
        return done((src, message))


def holding(number: int, stamp: int, step: int, value: float) -> Held:
    shared = {"parameters": torch.full((3,), value), "optimizer": {"momentum": torch.full((3,), -value)}}
    return Held(Lineage(number, stamp, step), 10 * step, shared, {"exchange": {"residual": torch.tensor([value])}})


def test_those_behind_get_the_state_of_one_that_is_not():
    group = Group([holding(2, 5, 7, 1.0), nothing(), holding(2, 5, 6, 2.0), holding(2, 5, 7, 1.0)])
    for behind, held in zip([False, True, True, False], group.run(), strict=True):
        assert isinstance(held, Held)
        assert (held.lineage, held.position) == (Lineage(2, 5, 7), 70)
        assert held.shared["parameters"].tolist() == [1.0] * 3
        assert held.shared["optimizer"]["momentum"].tolist() == [-1.0] * 3
        # What another worker has still to say must not be said twice.
        assert held.own["exchange"]["residual"].tolist() == [0.0 if behind else 1.0]
    assert [node.clock for node in group.nodes] == [3.0] * 4


def test_steps_of_an_older_membership_do_not_count():
    kept, dropped = holding(3, 9, 7, 1.0), holding(2, 5, 8, 2.0)
    for held in Group([dropped, kept]).run():
        assert held.lineage == Lineage(3, 9, 7)
        assert held.shared["parameters"].tolist() == [1.0] * 3


def test_at_the_beginning_nobody_sends_anything():
    held = [nothing(), nothing()]
    assert [a is b for a, b in zip(Group(held).run(), held, strict=True)] == [True, True]


def test_more_bytes_than_a_state_can_have_are_not_taken():
    _, error = Group([holding(1, 1, 1, 1.0), nothing()]).run(largest=50)
    assert re.search("rank 0 offers [0-9]+ bytes of state, which should be 1 to 50", str(error))


def test_a_negative_number_of_steps_is_not_believed():
    errors = Group([holding(1, 1, 1, 1.0), Held(Lineage(5, 5, -1), 0, {}, {})]).run()
    assert "a member claims to have done -1 steps" in str(errors[0])


@pytest.mark.parametrize(
    "sent",
    [b"", b"nonsense", pickle.dumps({"shared": 1}), save({"shared": torch.zeros(1), "shared.a": torch.zeros(1)})],
)
def test_what_is_no_state_is_refused(sent):
    packed = torch.frombuffer(bytearray(sent), dtype=torch.uint8) if sent else torch.empty(0, dtype=torch.uint8)
    with pytest.raises(RunError, match="what rank 3 sent is no state"):
        unpacked(packed, 3)
