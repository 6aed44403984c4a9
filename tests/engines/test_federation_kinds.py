"""What travels in a real federation besides rounds of parameters: late replies, questions, requests without tensors."""

from __future__ import annotations

import asyncio
import json
from pathlib import Path

import pytest

from quorate import run as runs
from quorate import star
from quorate.certificates import ServerIdentity
from quorate.engines import federation_farewell
from quorate.errors import RunError
from quorate.metrics_file import read_lines
from quorate.recipe import Recipe, parse
from tests.engines.star_lab import RECIPE, found, lab, recipe, run


@pytest.fixture(scope="module")
def identities(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return found(tmp_path_factory.mktemp("identities"), 3)


def changed(*pairs: tuple[str, str]) -> Recipe:
    text = RECIPE
    for old, new in pairs:
        assert old in text
        text = text.replace(old, new)
    return parse(text, "star", Path())


def real(tmp_path: Path, identities: Path, chosen: Recipe) -> dict:
    """Run a recipe over the star; return what its run.json says."""

    async def main() -> None:
        async with lab(tmp_path, chosen, identities) as it:
            await asyncio.gather(*(it.join(number) for number in range(3)), it.server)

    run(main)
    return json.loads((tmp_path / "run" / "run.json").read_text())


def test_clients_without_rounds_fill_every_buffer(tmp_path, identities):
    chosen = changed(
        ('name = "federated"', 'name = "fed_buff"'), ("cohort = 3\nquorum = 2", "concurrency = 3\nbuffer = 2")
    )
    facts = real(tmp_path, identities, chosen)
    lines = read_lines(tmp_path / "run" / "rounds.jsonl")
    assert [len(line["accepted"]) for line in lines] == [2, 2, 2]
    assert facts["status"] == "finished"
    assert facts["comparison"]["federated"]["clients"] == 3  # also those who were at work when the training was over


def test_late_replies_are_added_to_later_rounds(tmp_path, identities):
    chosen = changed(
        ("rounds = 3", 'rounds = 30\ndeadline = "0.01 s"\nlate = "buffer"\nmax_staleness = 30'),
        ("quorum = 2", "quorum = 1"),
    )
    real(tmp_path, identities, chosen)
    late = [line["late"] for line in read_lines(tmp_path / "run" / "metrics.jsonl")]
    lines = read_lines(tmp_path / "run" / "rounds.jsonl")
    assert sum(late) > 0
    assert not [line for line in lines if line["refused"] or line["late"]]
    assert sum(len(line["accepted"]) for line in lines) <= sum(len(line["asked"]) for line in lines)


def test_nothing_travels_and_clients_measure_themselves_as_in_the_simulator(tmp_path, identities):
    pairs = ("[optimizer]", '[algorithm]\nname = "local_only"\n[optimizer]'), ("alone = false", "alone = true")
    facts = real(tmp_path, identities, changed(*pairs))
    runs.simulate(changed(*pairs), 3, tmp_path / "simulated")
    simulated = json.loads((tmp_path / "simulated" / "run.json").read_text())
    lines = read_lines(tmp_path / "run" / "rounds.jsonl")
    assert [(line["bytes_up"], line["bytes_down"], line["accepted"]) for line in lines] == [(0, 0, [0, 1, 2])] * 3
    for kind in ("federated", "alone"):
        assert facts["comparison"][kind]["clients"] == 3
        assert facts["comparison"][kind] == simulated["comparison"][kind]


def test_who_was_away_at_the_end_hears_of_it_from_a_server_that_is_started_again(tmp_path, identities, monkeypatch):
    monkeypatch.setattr(federation_farewell, "_MOMENT", 0.2)
    chosen = recipe(absence="absence = 0.1", cohort="cohort = 3")

    async def without() -> None:
        async with lab(tmp_path, chosen, identities) as it:
            clients = [it.join(number) for number in range(3)]
            while it.controls[0].status().round < 1:
                await asyncio.sleep(0.005)
            clients[2].cancel()
            await asyncio.gather(*clients[:2], it.server)

    async def again() -> None:
        async with lab(tmp_path, chosen, identities) as it:
            heard = await it.join(2)
            assert heard["accuracy"] == (await it.server)["accuracy"]

    run(without)
    run(again)
    result = json.loads((tmp_path / "run" / "run.json").read_text())["result"]
    listened: list[int] = []

    async def once_more() -> None:
        shown = ServerIdentity.load(identities)
        found = await star.serve(tmp_path / "run", chosen, shown, "127.0.0.1:0", listens=listened.append)
        assert found == result

    run(once_more)
    assert not listened  # everybody has heard


def test_a_run_that_is_stopped_says_so(tmp_path, identities):
    async def main() -> None:
        async with lab(tmp_path, recipe(rounds="rounds = 1000"), identities) as it:
            clients = [it.join(number) for number in range(3)]
            while it.controls[0].status().round < 1:
                await asyncio.sleep(0.005)
            it.controls[0].stop("an operator has stopped the server")
            with pytest.raises(RunError, match="an operator"):
                await it.server
            for client in clients:
                client.cancel()

    run(main)
    facts = json.loads((tmp_path / "run" / "run.json").read_text())
    assert (facts["status"], facts["error"]) == ("stopped", "an operator has stopped the server")


def test_that_availability_is_for_the_simulator_is_said(tmp_path, identities):
    async def main() -> None:
        chosen = changed(("[record]", '[availability]\nname = "always"\n[record]'))
        async with lab(tmp_path, chosen, identities) as it:
            assert "[availability] is for the simulator; real clients are there or not" in it.said

    run(main)


def test_a_client_outlives_a_server_that_breaks_off(tmp_path, identities):
    async def main() -> None:
        async with lab(tmp_path, recipe(rounds="rounds = 1000"), identities) as it:
            clients = [it.join(number) for number in range(3)]
            while it.controls[0].status().round < 1:
                await asyncio.sleep(0.005)
            it.server.cancel()
            await asyncio.wait({it.server})
            await asyncio.sleep(0.5)
            assert not any(client.done() for client in clients)
            for client in clients:
                client.cancel()

    run(main)
    assert json.loads((tmp_path / "run" / "run.json").read_text())["error"] == "interrupted"
