from __future__ import annotations

import asyncio
import json
from contextlib import suppress
from pathlib import Path

import pytest
import torch

from quorate import founding, star
from quorate import run as runs
from quorate.engines import federation_farewell
from quorate.engines.federation_frames import Hello, Piece, Ready
from quorate.errors import QuorateError, RunError
from tests.engines.star_lab import Lab, Raw, found, lab, offer, piece, recipe, run

D = 4810  # parameters of the digits model


@pytest.fixture(autouse=True)
def _short_farewell(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(federation_farewell, "_MOMENT", 0.3)
    monkeypatch.setattr(federation_farewell, "_HEARING", 0.3)


@pytest.fixture(scope="module")
def identities(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return found(tmp_path_factory.mktemp("identities"), 4)


def rounds(where: Path) -> list[dict]:
    return [json.loads(line) for line in (where / "rounds.jsonl").read_text().splitlines()]


@pytest.fixture(scope="module")
def simulated(tmp_path_factory: pytest.TempPathFactory) -> dict:
    return runs.simulate(recipe(), 3, tmp_path_factory.mktemp("simulated") / "run")


def test_equals_the_simulation_to_the_bit(tmp_path, identities, simulated):
    async def main() -> None:
        async with lab(tmp_path, recipe(), identities) as it:
            clients = [it.join(number) for number in range(3)]
            result = await it.server
            assert result["parameters_sha256"] == simulated["parameters_sha256"]
            assert result["bytes"] == simulated["bytes"]
            assert [(await each)["accuracy"] for each in clients] == [result["accuracy"]] * 3
            status = it.controls[0].status()
            assert (status.round, status.state) == (3, "over")
            assert [client.rounds for client in status.clients] == [3, 3, 3]

    run(main)
    assert [line["accepted"] for line in rounds(tmp_path / "run")] == [[0, 1, 2]] * 3
    assert not list((tmp_path / "run" / "federation" / "replies").iterdir())


async def _hostile(it: Lab, act) -> str:
    """Let client 2 be asked and do something, and the others be honest; return how its stream ended."""
    others = [it.join(0), it.join(1)]
    async with Raw(it, 2) as raw:
        await raw.enter()
        ended = await act(raw, await raw.asked())
        await it.server
    await asyncio.gather(*others)
    return str(ended)


async def nan(raw, ask):
    made, blob = offer(ask, torch.full((D,), torch.nan))
    await raw.say(made)
    await raw.say(*piece(made, blob))
    return "NaN"


async def wrong_shape(raw, ask):
    await raw.say(offer(ask, torch.zeros(D - 1))[0])
    return await raw.ended()


async def wrong_dtype(raw, ask):
    await raw.say(offer(ask, torch.zeros(D, dtype=torch.float64))[0])
    return await raw.ended()


async def huge(raw, ask):
    made, _ = offer(ask, torch.zeros(D))
    spec = made.tensors[0].model_copy(update={"tensors": (("float32", (1 << 45,)),)})
    await raw.say(made.model_copy(update={"tensors": (spec,), "bytes": 1 << 47}))
    return await raw.ended()


async def lies_about_bytes(raw, ask):
    await raw.say(offer(ask, torch.zeros(D), bytes=8)[0])
    return await raw.ended()


async def too_many_bytes(raw, ask):
    made, blob = offer(ask, torch.zeros(D))
    await raw.say(made)
    await raw.say(Piece(id=made.id, offset=0), blob.read(0, blob.bytes) + b"more")
    return await raw.ended()


async def other_bytes(raw, ask):
    made, blob = offer(ask, torch.zeros(D), sha256="0" * 64)
    await raw.say(made)
    await raw.say(*piece(made, blob))
    return await raw.ended()


async def gap(raw, ask):
    made, blob = offer(ask, torch.zeros(D))
    await raw.say(made)
    await raw.say(Piece(id=made.id, offset=64), blob.read(64, blob.bytes))
    return await raw.ended()


async def half(raw, ask):
    made, blob = offer(ask, torch.zeros(D))
    await raw.say(made)
    await raw.say(Piece(id=made.id, offset=0), blob.read(0, 100))
    return await raw.ended()


async def garbage(raw, ask):
    await raw.call.write(bytes(range(256)) * 10)
    return await raw.ended()


async def bad_header(raw, ask):
    await raw.call.write(b'\x20\x00\x00\x00offer   {"id": [[[[[[[[[[1]]]]]]')
    return await raw.ended()


async def unasked(raw, ask):
    await raw.say(offer(ask, torch.zeros(D), id="f" * 32)[0])
    return await raw.ended()


async def other_round(raw, ask):
    await raw.say(offer(ask, torch.zeros(D), round=7)[0])
    return await raw.ended()


async def bad_numbers(raw, ask):
    made, blob = offer(ask, torch.zeros(D), numbers={"samples": -1.0, "steps": 1.0, "loss": float("nan")})
    await raw.say(made)
    await raw.say(*piece(made, blob))
    return "-1"


@pytest.mark.parametrize(
    ("act", "says"),
    [
        (nan, "holds NaN or infinity"),
        (bad_numbers, "its `samples` is -1.0"),
        (wrong_shape, "float32[4809], not float32[4810]"),
        (wrong_dtype, "float64[4810], not float32[4810]"),
        (huge, "float32[35184372088832], not float32[4810]"),
        (lies_about_bytes, "its tensors have 19240 bytes, not 8"),
        (too_many_bytes, "more than the 19240 bytes"),
        (other_bytes, "another SHA-256"),
        (gap, "from byte 64 on, though byte 0 is next"),
        (half, "100 of 19240 bytes of a reply, and then nothing"),
        (garbage, "bytes that are no message"),
        (bad_header, "a message `offer`"),
        (unasked, "a reply that nobody has asked for"),
        (other_round, "it is of round 8, not 1"),
    ],
)
def test_a_hostile_client_is_named_and_the_round_goes_on(tmp_path, identities, act, says):
    ended = ""

    async def main() -> None:
        nonlocal ended
        chosen = recipe(rounds="rounds = 1", stall="stall = 1.0" if act is half else "stall = 10.0")
        async with lab(tmp_path, chosen, identities) as it:
            ended = await _hostile(it, act)

    run(main)
    (line,) = rounds(tmp_path / "run")
    assert line["accepted"] == [0, 1]
    (culprit,) = line["refused"] + line["gone"]
    assert (culprit["client"], culprit["hostile"]) == (2, True)
    assert says in culprit["why"]
    assert act in (nan, bad_numbers) or says in ended


def test_a_silent_client_that_has_a_deadline_costs_its_round_only_its_update(tmp_path, identities):
    async def main() -> None:
        chosen = recipe(rounds="rounds = 1", stall="answer = 1.5\nstall = 1.0")
        async with lab(tmp_path, chosen, identities) as it, Raw(it, 2) as raw:
            await raw.enter()
            await asyncio.gather(it.join(0), it.join(1), it.server)

    run(main)
    (line,) = rounds(tmp_path / "run")
    assert line["accepted"] == [0, 1]
    assert line["gone"] == [{"client": 2, "why": "it has not answered for 1.5 seconds", "hostile": False}]


def test_is_shut_out_after_three_offences_and_stays_so(tmp_path, identities):
    async def main() -> None:
        async with lab(tmp_path, recipe(gathering="gathering = 2.0"), identities) as it:
            endings = []
            for _ in range(4):
                async with Raw(it, 2) as raw:
                    await raw.enter()
                    with suppress(AssertionError):
                        await raw.call.write(b"garbage")
                        endings.append(await raw.ended())
            assert [ending.endswith("final") for ending in endings] == [False, False, True, True]
            assert "is shut out" in endings[3]
            with pytest.raises(RunError, match="`c2` is shut out of this run after 3 offences"):
                await it.join(2)
            assert it.controls[0].status().clients[2].state == "shut out"
            await asyncio.gather(it.join(0), it.join(1), it.server)

    run(main)
    assert {each["client"] for each in rounds(tmp_path / "run")[0]["refused"]} == {2}


def test_unknown_revoked_and_foreign_certificates_are_refused(tmp_path):
    ours, foreign = found(tmp_path, 4), found(tmp_path / "foreign", 1)
    founding.revoke(ours, "c3")

    async def main() -> None:
        async with lab(tmp_path, recipe(rounds="rounds = 1"), ours) as it:
            with pytest.raises(RunError, match=r"`c3` \(3\) is revoked"):
                await it.join(3)
            stranger = Lab(it.where, foreign, it.port, it.server, it.recipe, it.said)
            knocking = star.join(
                stranger.bearer(0), it.recipe, tmp_path / "h", part=(0, 3), give_up=0.5, told=it.said.append
            )
            with pytest.raises(RunError, match="has been away"):
                await knocking
            await asyncio.gather(*(it.join(number) for number in range(3)), it.server)

    run(main)
    assert rounds(tmp_path / "run")[0]["accepted"] == [0, 1, 2]


def test_another_recipe_is_refused_by_the_names_of_what_differs(tmp_path, identities):
    async def main() -> None:
        async with lab(tmp_path, recipe(rounds="rounds = 1"), identities) as it:
            other = recipe(lr="lr = 0.2", batch="batch = 7")
            joining = star.join(it.bearer(0), other, tmp_path / "h", part=(0, 3), told=it.said.append)
            with pytest.raises(RunError, match="recipe differs from the server's in `optimizer`, `program`"):
                await joining
            elsewhere = recipe(rounds="rounds = 1", evaluate="evaluate = 1", absence="absence = 9.0")
            joining = star.join(it.bearer(0), elsewhere, tmp_path / "h", part=(0, 3), told=it.said.append)
            await asyncio.gather(asyncio.create_task(joining), it.join(1), it.join(2), it.server)

    run(main)


def test_the_newer_of_two_connections_of_one_identity_stays(tmp_path, identities):
    async def main() -> None:
        async with lab(tmp_path, recipe(rounds="rounds = 1"), identities) as it, Raw(it, 0) as raw:
            await raw.enter()
            while it.controls[0].status().clients[0].state == "never seen":
                await asyncio.sleep(0.01)
            clients = [it.join(0)]
            assert await raw.ended() == "another process has joined with the same identity final"
            await asyncio.gather(*clients, it.join(1), it.join(2), it.server)

    run(main)


def test_a_client_that_comes_back_sends_the_rest_of_its_reply_only(tmp_path, identities):
    async def main() -> None:
        chosen = recipe(rounds="rounds = 1", absence="absence = 20.0")
        async with lab(tmp_path, chosen, identities) as it:
            others = [it.join(0), it.join(1)]
            async with Raw(it, 2) as raw:
                await raw.enter()
                ask = await raw.asked()
                made, blob = offer(ask, torch.zeros(D))
                await raw.say(made)
                await raw.say(Piece(id=made.id, offset=0), blob.read(0, 1000))
                while it.controls[0].status().clients[2].bytes_up < 1000:
                    await asyncio.sleep(0.01)
            async with Raw(it, 2) as raw:
                hello = Hello(protocol=1, configuration=star.configuration(it.recipe), facts={})
                await raw.say(hello)
                await raw.say(Ready(held=(), busy=ask.id))
                from quorate.engines.federation_frames import Verdict

                verdict = await raw.hear(Verdict)
                assert (verdict.state, verdict.start) == ("open", 1000)
                await raw.say(made.model_copy(update={"start": 1000}))
                await raw.say(*piece(made, blob, 1000))
                assert (await raw.hear(Verdict)).state == "accepted"
                await asyncio.gather(*others, it.server)

    run(main)
    assert rounds(tmp_path / "run")[0]["accepted"] == [0, 1, 2]


def test_stops_with_a_message_when_all_clients_are_gone_and_goes_on_later(tmp_path, identities, simulated):
    async def alone() -> None:
        async with lab(tmp_path, recipe(patience="patience = 1.0"), identities) as it:
            clients = [it.join(number) for number in range(3)]
            while it.controls[0].status().round < 1:
                await asyncio.sleep(0.005)
            for client in clients:
                client.cancel()
            with pytest.raises(RunError, match="too few clients"):
                await it.server
        assert json.loads((it.where / "run.json").read_text())["status"] == "failed"

    async def again() -> None:
        async with lab(tmp_path, recipe(patience="patience = 1.0"), identities) as it:
            await asyncio.gather(*(it.join(number) for number in range(3)), it.server)
            assert it.server.result()["steps"] == 3

    run(alone)
    run(again)


def test_is_stopped_and_gone_on_with(tmp_path, identities, simulated):
    async def stopped() -> None:
        async with lab(tmp_path, recipe(), identities) as it:
            clients = [it.join(number) for number in range(3)]
            while it.controls[0].status().round < 1:
                await asyncio.sleep(0.005)
            it.controls[0].stop("the operator has stopped the server")
            with pytest.raises(RunError, match="the operator has stopped"):
                await it.server
            for client in clients:
                client.cancel()

    async def again() -> None:
        async with lab(tmp_path, recipe(), identities) as it:
            await asyncio.gather(*(it.join(number) for number in range(3)), it.server)
            assert it.server.result()["parameters_sha256"] == simulated["parameters_sha256"]

    run(stopped)
    run(again)


def test_a_folder_of_another_recipe_is_refused(tmp_path, identities):
    async def main() -> None:
        async with lab(tmp_path, recipe(rounds="rounds = 1"), identities) as it:
            await asyncio.gather(*(it.join(number) for number in range(3)), it.server)
        with pytest.raises(QuorateError, match="holds a run of another recipe; it differs in program"):
            async with lab(tmp_path, recipe(), identities):
                pass

    run(main)
