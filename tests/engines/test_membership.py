from __future__ import annotations

import threading
import time
from collections.abc import Callable, Iterator

import pytest

from quorate.engines.contact import Unreachable, connect
from quorate.engines.membership import GONE, LEASE, Coordinator, Epoch, Membership, TooFew
from quorate.errors import QuorateError, RunError

pytest.importorskip("torchft")


@pytest.fixture
def coordinator() -> Iterator[Coordinator]:
    """A coordinator of runs that need two workers."""
    made = Coordinator("127.0.0.1", minimum=2)
    made.store.set("first", "2")
    yield made
    made.close()


@pytest.fixture
def member(coordinator) -> Iterator[Callable[..., Membership]]:
    """Makes members, and closes them at last."""
    made: list[Membership] = []

    def make(**settings) -> Membership:
        made.append(Membership(coordinator.address, **settings))
        return made[-1]

    yield make
    for each in made:
        each.close()


def agree(*members: Membership, step: int = 0, patience: float = 20.0) -> list[Epoch | Exception]:
    """Let members ask at the same time; return what each is told."""
    told: dict[int, Epoch | Exception] = {}

    def ask(number: int, each: Membership) -> None:
        try:
            told[number] = each.agree(step + number, patience, lambda waited: None)
        except RunError as error:
            told[number] = error

    threads = [threading.Thread(target=ask, args=each) for each in enumerate(members)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    return [told[number] for number in range(len(members))]


def agreed(*members: Membership, step: int) -> list[Epoch]:
    """Let members ask until all are in: two of them may be told before the third one has come."""
    for _ in range(15):
        epochs = agree(*members, step=step, patience=4.0)
        if all(isinstance(epoch, Epoch) and len(epoch.members) == len(members) for epoch in epochs):
            return epochs
    raise AssertionError(f"the members never agreed: {epochs}")


def test_members_are_told_the_same_with_ranks_by_seniority(member):
    writer, joiner, first = member(batch=7), member(writes=False), member()
    epochs = agreed(writer, joiner, first, step=5)
    assert [epoch.rank for epoch in epochs] == [0, 2, 1]
    assert len({epoch.key for epoch in epochs}) == 1
    assert len({epoch.members for epoch in epochs}) == 1
    assert [(each.name, each.batch, each.step) for each in epochs[0].members] == [
        (writer.name, 7, 5),
        (first.name, 0, 7),
        (joiner.name, 0, 6),
    ]
    again = agree(writer, joiner, first)
    assert again[0].number == epochs[0].number
    assert again[0].stamp > epochs[0].stamp


def test_one_that_falls_silent_is_left_out_after_a_moment(member):
    members = [member() for _ in range(3)]
    before = agree(*members)
    members[1].close()
    began = time.monotonic()
    after = agree(members[0], members[2])
    assert time.monotonic() - began < GONE + 5
    assert [each.name for each in after[0].members] == [members[0].name, members[2].name]
    assert after[0].number > before[0].number


def test_one_that_lives_is_waited_for(member):
    members = [member() for _ in range(3)]
    agree(*members)
    late = threading.Timer(2 * GONE, lambda: members[1].agree(0, 20.0, lambda waited: None))
    late.start()
    assert all(epoch.size == 3 for epoch in agree(members[0], members[2]))
    late.join()


def test_fewer_than_the_minimum_do_not_go_on(member):
    (error,) = agree(member(), patience=1.5)
    assert isinstance(error, TooFew)
    assert "there were fewer than 2 workers, which a run needs to go on" in str(error)


def test_who_may_go_on_ends_before_the_lighthouse_counts_it_as_gone(coordinator, member):
    assert LEASE < GONE
    lone = member()
    time.sleep(0.3)
    lone.require()
    assert lone.silence < LEASE
    lone.close()
    time.sleep(LEASE)
    with pytest.raises(Unreachable, match=rf"the coordinator at {coordinator.address}, which says who takes part"):
        lone.require(patience=LEASE)


def test_a_coordinator_that_has_ended_is_named():
    coordinator = Coordinator("127.0.0.1", minimum=1)
    address = coordinator.address
    connect(address).set("a", "b")
    coordinator.close()
    del coordinator
    with pytest.raises(Unreachable, match=rf"the coordinator at {address}, which says who takes part, has ended"):
        connect(address)


@pytest.mark.parametrize("address", ["", "host", "host:", ":1", "host:0", "host:99999", "host:-1"])
def test_what_is_no_address_is_refused(address):
    with pytest.raises(QuorateError, match=f"`{address}` is no address of a run\nhint: HOST:PORT"):
        connect(address)


def test_an_address_of_another_machine_can_not_be_listened_on():
    with pytest.raises(RunError, match=r"can't listen at `192.0.2.1`: .*\nhint: give an address of this machine"):
        Coordinator("192.0.2.1", minimum=1)
