"""Requests that outlast their round, and a server that outlasts its process: what programs without rounds need."""

from __future__ import annotations

import asyncio
import threading
from pathlib import Path

import pytest
import torch

from quorate.engines.federation_frames import Chunk, Failed, Verdict
from quorate.federated import Gone
from tests.engines.star_lab import Raw, found, run
from tests.engines.star_stage import LIKE, NAP, enter, here, reply, request, stage


@pytest.fixture(scope="module")
def identities(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return found(tmp_path_factory.mktemp("identities"), 3)


def test_requests_of_one_round_may_differ_in_their_numbers_and_share_their_tensors(tmp_path, identities):
    async def act(server):
        await here(server, 0, 1)
        first = request(0, steps=1.0)
        server.ask([0], first)
        server.ask([1], request(0, steps=2.0, tensors=first.tensors))
        return [(await server.reply()).client for _ in range(2)]

    async def main() -> None:
        async with stage(tmp_path, identities, act) as it, Raw(it, 0) as one, Raw(it, 1) as two:
            await asyncio.gather(one.enter(), two.enter())
            asks = [await one.asked(), await two.asked()]
            assert [ask.numbers for ask in asks] == [{"steps": 1.0}, {"steps": 2.0}]
            assert asks[0].chunks == asks[1].chunks
            assert asks[0].id != asks[1].id
            await asyncio.gather(reply(one, asks[0]), reply(two, asks[1]))
            assert sorted(await it.server) == [0, 1]

    run(main)


def test_who_is_busy_goes_on_with_what_it_was_asked_until_it_is_released(tmp_path, identities):
    async def act(server):
        await here(server, 0)
        server.ask([0], request(0))
        server.commit(1, 0.0, {"parameters": LIKE}, [])
        server.ask([0], request(1))
        first = await server.reply()
        server.accept(first)
        server.ask([0], request(1))
        await server.reply(server.now() + NAP)
        server.release([0], 0)
        assert server.present() == []
        server.release([0], 1)
        return first.round, list(server.present())

    async def main() -> None:
        async with stage(tmp_path, identities, act) as it, Raw(it, 0) as raw:
            await raw.enter()
            ask = await raw.asked()
            assert ask.round == 0
            await reply(raw, ask)
            assert (await raw.hear(Verdict)).state == "accepted"
            later = await raw.asked()
            assert later.round == 1
            verdict = await raw.hear(Verdict)
            assert (verdict.id, verdict.state) == (later.id, "dropped")
            assert await it.server == (0, [0])

    run(main)


async def _asked_and_crashed(tmp_path, identities, before=None) -> str:
    """Ask client 0 in round 1, go on to round 2, and stop; return the request's id."""

    async def act(server):
        await here(server, 0)
        server.ask([0], request(0))
        if before is not None:
            await before(server)
        server.commit(1, 0.0, {"parameters": LIKE}, [])
        await server.reply()

    async with stage(tmp_path, identities, act) as it, Raw(it, 0) as raw:
        await raw.enter()
        ask = await raw.asked()
        await raw.hear(Chunk)
        while not it.controls[0].status().round:
            await asyncio.sleep(0.01)
    return ask


def test_a_reply_to_an_earlier_round_is_delivered_after_a_restart(tmp_path, identities):
    async def act(server):
        done, _ = server.restore({})
        server.ask([0], request(done))
        found = await server.reply()
        server.accept(found)
        return done, found.round, found.message("update")[0]

    async def main() -> None:
        ask = await _asked_and_crashed(tmp_path, identities)
        async with stage(tmp_path, identities, act) as it, Raw(it, 0) as raw:
            await enter(raw, busy=ask.id)
            assert (await raw.hear(Verdict)).state == "open"
            await reply(raw, ask)
            done, round, update = await it.server
            assert (done, round) == (1, 0)
            assert torch.equal(update, LIKE)

    run(main)


def test_who_has_lost_an_earlier_request_in_a_crash_is_gone_and_can_be_asked_anew(tmp_path, identities):
    begun = threading.Event()

    async def act(server):
        done, _ = server.restore({})
        server.ask([0], request(done))
        begun.set()
        gone = await server.reply()
        await here(server, 0)
        server.ask([0], request(done))
        return gone, (await server.reply()).round

    async def main() -> None:
        await _asked_and_crashed(tmp_path, identities)
        async with stage(tmp_path, identities, act) as it, Raw(it, 0) as raw:
            await asyncio.to_thread(begun.wait, 30)
            await enter(raw)
            ask = await raw.asked()
            await reply(raw, ask)
            gone, round = await it.server
            assert gone == Gone(0, 0, "it has lost the request while the server was away")
            assert round == 1

    run(main)


def test_who_is_back_after_a_crash_before_it_is_asked_again_is_not_given_up(tmp_path, identities):
    """It has lost the request of the round that goes on, which the program will ask again."""

    async def first(server):
        await here(server, 0)
        server.ask([0], request(0))
        await server.reply()

    async def act(server):
        await here(server, 0)
        server.ask([0], request(0))
        return await server.reply()

    async def main() -> None:
        async with stage(tmp_path, identities, first) as it, Raw(it, 0) as raw:
            await raw.enter()
            await raw.asked()
        async with stage(tmp_path, identities, act) as it, Raw(it, 0) as raw:
            await enter(raw)
            await reply(raw, await raw.asked())
            found = await it.server
            assert not isinstance(found, Gone)
            assert found.round == 0

    run(main)


def test_who_still_works_on_a_request_that_was_given_up_is_sent_it_when_it_is_asked_anew(tmp_path, identities):
    """Both have the same id, and the client was told to drop the first."""

    async def first(server):
        await here(server, 0)
        server.ask([0], request(0))
        return await server.reply()

    async def act(server):
        await here(server, 0)
        server.ask([0], request(0))
        return await server.reply()

    async def main() -> None:
        async with stage(tmp_path, identities, first) as it:
            async with Raw(it, 0) as raw:
                await raw.enter()
                ask = await raw.asked()
            assert (await it.server).why == "it was away for 0.4 seconds"
        async with stage(tmp_path, identities, act) as it, Raw(it, 0) as raw:
            await enter(raw, busy=ask.id)
            verdict = await raw.hear(Verdict)
            assert (verdict.id, verdict.state) == (ask.id, "dropped")
            assert await raw.asked() == ask
            await reply(raw, ask)
            assert (await it.server).round == 0

    run(main)


def test_nobody_waits_for_who_was_refused_in_this_round_before_a_crash(tmp_path, identities):
    async def first(server):
        await here(server, 0)
        server.ask([0], request(0))
        server.refuse(await server.reply(), "a trial")

    async def act(server):
        await here(server, 0)
        server.ask([0], request(0))
        return await server.reply(), await server.reply()

    async def main() -> None:
        async with stage(tmp_path, identities, first) as it, Raw(it, 0) as raw:
            await raw.enter()
            await reply(raw, await raw.asked())
            await it.server
        async with stage(tmp_path, identities, act) as it, Raw(it, 0) as raw:
            await enter(raw)
            assert await it.server == (Gone(0, 0, "it has answered this round before"), None)

    run(main)


def test_who_could_not_is_sent_the_same_request_again(tmp_path, identities):
    async def act(server):
        await here(server, 0)
        server.ask([0], request(0))
        gone = await server.reply()
        server.ask([0], request(0))
        return gone, await server.reply()

    async def main() -> None:
        async with stage(tmp_path, identities, act) as it, Raw(it, 0) as raw:
            await raw.enter()
            ask = await raw.asked()
            await raw.say(Failed(id=ask.id, why="it was tired"))
            again = await raw.asked()
            assert again == ask
            await reply(raw, again)
            gone, found = await it.server
            assert gone.why == "it could not: it was tired"
            assert found.round == 0

    run(main)


def test_a_wait_ends_in_time_or_when_nobody_is_left(tmp_path, identities):
    async def act(server):
        assert await server.reply() is None
        await here(server, 0)
        server.ask([0], request(0))
        until = server.now() + NAP
        assert await server.reply(until) is None
        assert until <= server.now() < until + 10
        return True

    async def main() -> None:
        async with stage(tmp_path, identities, act) as it, Raw(it, 0) as raw:
            await raw.enter()
            assert await it.server

    run(main)
