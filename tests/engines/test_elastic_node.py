from __future__ import annotations

import pytest
import torch
import torch.distributed as dist
from torch.distributed import HashStore

from quorate.engines import Forgetful, PeerError
from quorate.engines.elastic_node import ElasticNode, Held, Lineage, Over, nothing
from quorate.engines.membership import Epoch, Member
from quorate.engines.watch import View
from quorate.errors import RunError
from quorate.trace import Trace


class Alone:
    """A membership, a watch and data that let a lone worker go on."""

    asked: int | None = None
    silence = 0.0
    ended: str | None = None

    def require(self) -> None: ...

    def end(self, why: str) -> None:
        self.ended = why

    def at(self, step: int) -> None:
        self.step = step

    def used(self, step: int) -> int:
        return 8 * step


@pytest.fixture
def alone(monkeypatch):
    monkeypatch.setenv("GLOO_SOCKET_IFNAME", "lo")
    dist.init_process_group("gloo", store=HashStore(), rank=0, world_size=1)
    yield Alone()
    dist.destroy_process_group()


def node_of(alone: Alone, held: Held) -> tuple[ElasticNode, View]:
    view = View(Epoch(4, 9, (Member("a", "host", 0, 0),), 0), lambda: (0, 0.0), lambda: None)
    node = ElasticNode(alone, alone, view, held, alone, Trace(1))  # type: ignore[arg-type]
    node.begin(held, Forgetful(), lambda step: None)
    return node, view


def test_what_is_committed_is_a_copy_that_is_given_back(alone):
    held = nothing()
    node, _ = node_of(alone, held)
    step, shared, own = node.restore({"parameters": torch.zeros(2)}, {})
    assert step == 0
    shared["parameters"].add_(1)
    node.commit(1, 0.5, shared, own)
    memory = held.shared["parameters"].data_ptr()
    shared["parameters"].add_(1)
    assert held.shared["parameters"].tolist() == [1, 1]
    assert (held.lineage, held.position) == (Lineage(4, 9, 1), 8)
    node.commit(2, 0.5, shared, own)
    assert held.shared["parameters"].tolist() == [2, 2]
    assert held.shared["parameters"].data_ptr() == memory
    again = node_of(alone, held)[0].restore({"parameters": torch.zeros(2)}, {})
    assert (again[0], again[1]["parameters"].tolist()) == (2, [2, 2])
    assert again[1]["parameters"].data_ptr() != memory


def test_a_state_that_does_not_fit_is_refused(alone):
    node, _ = node_of(alone, Held(Lineage(1, 1, 5), 0, {"parameters": torch.zeros(3)}, {}))
    with pytest.raises(RunError, match="the state of step 5 does not fit the recipe: `parameters` differs"):
        node.restore({"parameters": torch.zeros(2)}, {})


def test_calls_and_commits_end_when_the_membership_does(alone):
    node, view = node_of(alone, nothing())
    assert node.all_reduce(torch.ones(2)).wait().tolist() == [1, 1]
    view.over = "rank 1 is gone"
    with pytest.raises(Over, match="rank 1 is gone"):
        node.all_reduce(torch.ones(2))
    with pytest.raises(Over, match="rank 1 is gone"):
        node.commit(1, 0.0, {}, {})
    assert issubclass(Over, PeerError)
    assert node.held.lineage.step == 1


def test_a_call_that_fails_tells_the_others(alone):
    node, _ = node_of(alone, nothing())

    def fail() -> None:
        raise RuntimeError("connection closed\nby peer")

    with pytest.raises(Over, match=r"rank 0 \(.*\), step 1: a meeting failed (at once|after .*) \[connection closed\]"):
        node.guarded("a meeting", fail)
    assert "a meeting failed" in alone.ended
    assert node.state() == (0, 0.0)


def test_members_leave_for_a_newcomer_after_the_step_that_all_come_to(alone):
    node, view = node_of(alone, nothing())
    view.newcomer, view.leaving = True, 2
    node.commit(1, 0.0, {}, {})
    assert alone.step == 1
    with pytest.raises(Over, match="a worker joins after step 2"):
        node.commit(2, 0.0, {}, {})


def test_a_program_that_counts_otherwise_is_refused(alone):
    node, _ = node_of(alone, nothing())
    alone.asked = 7
    with pytest.raises(RunError, match="step 2: the program asks for the batch of step 7 then"):
        node.commit(2, 0.0, {}, {})
