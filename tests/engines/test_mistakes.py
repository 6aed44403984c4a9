"""What the simulator says of a program that is wrong: which rank, and where."""

from __future__ import annotations

import asyncio
import gc
import sys
import warnings

import pytest
import torch

from quorate.engines.simulator import Simulator
from quorate.errors import RecipeError, RunError
from quorate.exchange import Exchange
from quorate.gradient import TaskError
from quorate.rand import At, Rand
from tests.tiny import line_of, simulate

ONE = torch.zeros(1)


def stops(program, size=2, **settings):
    """Run a wrong program; return the message, and see that nothing is left behind that warns later."""
    with pytest.raises(RunError) as error:
        simulate(program, size, **settings)
    said = str(error.value)
    del error
    gc.collect()
    return said


async def swap(node):
    _, (got,) = await node.recv(1 - node.rank, (ONE,))  # both wait
    await node.send(1 - node.rank, (got,))


def test_a_deadlock_names_ranks_and_places():
    place = line_of(swap, "# both wait")
    assert stops(swap) == (
        f"deadlock: no message is on its way, and rank 0 waits in recv at {place} from rank 1;"
        f" rank 1 waits in recv at {place} from rank 0"
    )


async def waits_for_the_gone(node):
    if node.rank:
        await node.recv(0, (ONE,))  # of one that has ended


def test_a_deadlock_says_who_has_ended():
    assert stops(waits_for_the_gone) == (
        "deadlock: no message is on its way, and rank 1 waits in recv at"
        f" {line_of(waits_for_the_gone, '# of one')} from rank 0, which has ended"
    )


async def waits_for_anybody(node):
    await node.recv(None, (ONE,))  # from anybody


def test_a_deadlock_of_many_is_cut_short():
    said = stops(waits_for_anybody, 20)
    assert said.count("waits in recv at") == 8
    assert said.endswith(f"rank 7 waits in recv at {line_of(waits_for_anybody, '# from')} from any rank; and 12 more")


async def skips_a_meeting(node):
    node.commit(3, 0.0, {}, {})
    if node.rank not in (1, 2):
        await node.all_reduce(ONE.clone())  # meeting


def test_a_deadlock_in_a_meeting_names_who_is_missing_and_the_step():
    said, place = stops(skips_a_meeting, 4), line_of(skips_a_meeting, "# meeting")
    assert said == (
        f"deadlock: no message is on its way, and rank 0 waits in all_reduce at {place} for ranks 1, 2 (step 4);"
        f" rank 3 waits in all_reduce at {place} for ranks 1, 2 (step 4)"
    )


async def deep_deadlock(node):
    async def inner():
        await node.recv(None, (ONE,))  # deep

    await node.spawn(inner())  # parent


def test_a_deadlock_in_what_was_spawned_names_both():
    said = stops(deep_deadlock, 1)
    assert f"rank 0 waits in spawn at {line_of(deep_deadlock, '# parent')}" in said
    assert f"rank 0 waits in recv at {line_of(deep_deadlock, '# deep')} from any rank" in said


async def other_kind(node):
    if node.rank == 2:
        await node.all_gather((ONE,))  # gather
    await node.all_reduce(ONE.clone())  # reduce


async def other_shape(node):
    await node.all_reduce(ONE.clone())
    await node.all_reduce(torch.zeros(2 + node.rank))  # shape


async def other_dtype(node):
    await node.all_reduce(ONE.double() if node.rank else ONE.clone())  # dtype


HINT = "\nhint: all ranks must call the same collectives, in the same order, on tensors of equal shape and dtype"


@pytest.mark.parametrize("paranoid", [False, True])
def test_meetings_that_differ_name_both_ranks_and_places(paranoid):
    gather, reduce = line_of(other_kind, "# gather"), line_of(other_kind, "# reduce")
    assert stops(other_kind, 3, paranoid=paranoid) == (
        f"collective 1 differs between ranks: rank 2 calls all_gather at {gather},"
        f" rank 0 called all_reduce(float32[1]) at {reduce}" + HINT
    )
    place = line_of(other_shape, "# shape")
    assert stops(other_shape, paranoid=paranoid) == (
        f"collective 2 differs between ranks: rank 1 calls all_reduce(float32[3]) at {place},"
        f" rank 0 called all_reduce(float32[2]) at {place}" + HINT
    )
    place = line_of(other_dtype, "# dtype")
    assert stops(other_dtype, paranoid=paranoid) == (
        f"collective 1 differs between ranks: rank 1 calls all_reduce(float64[1]) at {place},"
        f" rank 0 called all_reduce(float32[1]) at {place}" + HINT
    )


async def forgets_a_send(node):
    if node.rank == 0:
        node.send(1, (ONE,))  # forgotten
    else:
        await node.recv(0, (ONE,))


async def forgets_a_computation(node):
    if node.rank == 1:
        node.compute(torch.zeros, 1)  # forgotten


@pytest.mark.parametrize(
    ("program", "rank", "what"), [(forgets_a_send, 0, "send"), (forgets_a_computation, 1, "compute")]
)
def test_a_call_that_was_never_awaited_is_named(program, rank, what):
    assert stops(program) == (
        f"rank {rank} never awaited its call of `{what}` at {line_of(program, '# forgotten')}"
        f"\nhint: write `await node.{what}(...)`, or keep the result and await it later"
    )


async def forgets_an_exchange(node):
    exchange, x = Exchange(), torch.zeros(1)
    if node.rank == 1:
        exchange(node, x, {}, At(0, node.rank, node.size, Rand(0)))  # dropped
    await node.all_reduce(x)


async def keeps_an_exchange(node):
    kept = Exchange()(node, torch.zeros(1), {}, At(0, node.rank, node.size, Rand(0)))  # kept
    await node.compute(len, "")
    return kept is None


@pytest.mark.parametrize(
    ("program", "rank", "mark"), [(forgets_an_exchange, 1, "# dropped"), (keeps_an_exchange, 0, "# kept")]
)
def test_a_coroutine_that_was_never_awaited_is_named(program, rank, mark):
    said = stops(program)
    file, line = line_of(program, mark).rsplit(":", 1)
    assert said.startswith(f"rank {rank} forgot an await: coroutine 'Exchange.__call__' was never awaited")
    assert f'File "{file}", line {line}, in {program.__name__}' in said
    assert said.endswith("\nhint: write `await` before the call")


class Foreign:
    """Something that an event loop would answer."""

    def __await__(self):
        yield "a future"


async def awaits_a_future(node):
    await Foreign()  # foreign


def test_awaiting_something_foreign_is_named():
    assert stops(awaits_a_future) == (
        f"rank 0 awaits 'a future' at {line_of(awaits_a_future, '# foreign')}, which is no call on its node"
        "\nhint: a program may await nothing else; no asyncio"
    )


async def sleeps(node):
    await asyncio.sleep(0)


def test_asyncio_is_refused():
    assert stops(sleeps).endswith("which is no call on its node\nhint: a program may await nothing else; no asyncio")


async def sends_to_nobody(node):
    await node.send(2, (ONE,))  # nobody


async def hears_from_nobody(node):
    await node.recv(-1, (ONE,))  # nobody


def test_a_rank_that_does_not_exist_is_named():
    place = line_of(sends_to_nobody, "# nobody")
    assert stops(sends_to_nobody) == f"rank 0 sends to rank 2 at {place}, but there are 2 ranks"
    place = line_of(hears_from_nobody, "# nobody")
    assert stops(hears_from_nobody) == f"rank 0 receives from rank -1 at {place}, but there are 2 ranks"


async def expects_something_else(node):
    if node.rank == 0:
        await node.send(1, (torch.zeros(2, 3), ONE))
    else:
        await node.compute(len, "", samples=1)
        await node.recv(0, (torch.zeros(3, 2), ONE.double()))  # other


def test_a_message_of_another_shape_is_named():
    assert stops(expects_something_else) == (
        "rank 1 expected float32[3, 2], float64[1] from rank 0"
        f" at {line_of(expects_something_else, '# other')}, but was sent float32[2, 3], float32[1]"
    )


@pytest.mark.parametrize("rank", [0, 2])
def test_an_exception_keeps_its_kind_and_gains_rank_and_step(rank):
    async def raises(node):
        if node.rank == rank:
            node.commit(7, 0.0, {}, {})
            raise ZeroDivisionError("of mine")
        await node.recv(None, (ONE,))

    with pytest.raises(ZeroDivisionError, match="of mine") as error:
        simulate(raises, 3)
    assert error.value.__notes__ == [f"in the program of rank {rank}, step 8"]
    del error
    gc.collect()


def test_a_mistake_of_the_user_gains_rank_and_step():
    async def refuses(node):
        node.commit(1, 0.0, {}, {})
        raise RecipeError("too slow", "go faster")

    assert stops(refuses) == "rank 0, step 2: too slow\nhint: go faster"


def test_a_failing_computation_names_the_rank_that_asked_for_it():
    def fails(rank):
        if rank == 1:
            raise TaskError("no gradient")

    async def program(node):
        await node.compute(fails, node.rank, samples=1)

    assert stops(program, 3) == "rank 1, step 1: no gradient"


def test_the_machine_is_left_as_it_was():
    before = (sys.get_coroutine_origin_tracking_depth(), warnings.showwarning, list(warnings.filters))
    stops(forgets_a_send)
    assert (sys.get_coroutine_origin_tracking_depth(), warnings.showwarning, list(warnings.filters)) == before


def test_other_warnings_go_where_they_went():
    async def warns(node):
        warnings.warn("look out", stacklevel=1)
        await node.compute(len, "")

    with pytest.warns(UserWarning, match="look out"):
        Simulator(1).run(warns)
