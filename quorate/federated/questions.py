"""What a server asks of real clients when the training is over: how well its model serves them, and how well alone.

Their data stay with them: they measure themselves, and only the measures travel.
"""

from __future__ import annotations

import math
from collections.abc import Collection
from pathlib import Path
from typing import Any

from torch import Tensor

from quorate.federated import Gone, Reply, Request, Server
from quorate.federated.client import Client
from quorate.federated.comparison import FILE, sampled, took_part
from quorate.federated.record import read_rounds
from quorate.federated.summary import Found, Values, summary
from quorate.files import write_json
from quorate.settings import ComparisonSettings

POOLED = "pooled: the data of a real federation can't be pooled; simulate the recipe to compare"


async def compare(
    server: Server, clients: Client, parameters: Tensor, settings: ComparisonSettings, where: Path
) -> dict[str, Any]:
    """Compare a real federation with what each client comes to alone.

    Args:
        server: what has been accepted before a crash of it is not asked again.
        clients: what all have in common.
        parameters: (d,), the last ones.
        settings: what is compared, and how long clients have.
        where: the run's folder; its record of the rounds tells how much the federation has trained.

    Returns:
        What `run.json` says; see `summary`. Each client's values are in `clients.json`.
    """
    rounds, counts = took_part(where, server.size)
    found, silent = Found(), _silent(where)
    evaluate = Request(rounds, {"parameters": (parameters,)}, {}, "evaluate")
    everybody = [client for client in range(server.size) if client not in silent]
    found.federated = await _told(server, evaluate, everybody, settings.patience, found.notes)
    if settings.alone:
        found.times = settings.times or max(1, *counts)
        chosen = [each for each in sampled(server.size, settings.clients, clients.training.rand) if each not in silent]
        request = Request(rounds, {}, {"times": float(found.times), "rounds": float(rounds)}, "alone")
        found.alone = await _told(server, request, chosen, settings.patience, found.notes)
    if silent:
        found.notes.append(f"left out, because no reply of theirs could be used: {', '.join(map(str, sorted(silent)))}")
    if settings.pooled:
        found.notes.append(POOLED)
    measuring = clients.measuring
    held = {
        "measure": measuring.name,
        "rises": measuring.rises,
        "samples": [server.facts(client).get("samples") for client in range(server.size)],
        "took_part": counts,
        "labels": None,
    }
    for name, values in (("federated", found.federated), ("alone", found.alone), ("pooled", {})):
        held[name] = [values.get(client) for client in range(server.size)]
    write_json(where / FILE, held)
    return summary(found, measuring.name, measuring.rises, "its own test data")


def _silent(where: Path) -> set[int]:
    """Return the clients that were asked in rounds, but never came to a reply that could be used: they are left out."""
    lines = read_rounds(where)
    return {each for line in lines for each in line["asked"]} - {each for line in lines for each in line["accepted"]}


async def _told(server: Server, request: Request, wanted: Collection[int], patience: float, notes: list[str]) -> Values:
    """Return what clients that are present tell of themselves in time; those who could not are noted."""
    values: Values = {}
    unable: dict[int, str] = {}
    until = server.now() + patience

    def took(reply: Reply) -> None:
        value = reply.numbers.get("value")
        if value is None:
            unable[reply.client] = "it has no data to be measured on"
        else:
            values[reply.client] = value

    for reply in server.accepted():
        if (reply.round, reply.kind) == (request.round, request.kind):
            took(reply)
    present = set(server.present())
    done = values.keys() | unable.keys()
    waiting = {client for client in wanted if client in present and client not in done}
    server.ask(sorted(waiting), request)
    while waiting:
        answer = await server.reply(until)
        if answer is None:
            break
        if isinstance(answer, Gone):
            if answer.client in waiting and answer.round == request.round:
                waiting.discard(answer.client)
                unable[answer.client] = answer.why
        elif answer.client not in waiting or (answer.round, answer.kind) != (request.round, request.kind):
            server.refuse(answer, "it came too late, after the training")
        elif not math.isfinite(answer.numbers.get("value", 0.0)):
            server.refuse(answer, f"its `value` is {answer.numbers['value']}", hostile=True)
            waiting.discard(answer.client)
            unable[answer.client] = "its measure was no number"
        else:
            server.accept(answer)
            waiting.discard(answer.client)
            took(answer)
    server.release(sorted(waiting), request.round)
    unable |= dict.fromkeys(waiting, "it did not answer in time")
    notes += [f"{request.kind}: client {client}: {why}" for client, why in sorted(unable.items())]
    away = [client for client in wanted if client not in values and client not in unable]
    if away:
        notes.append(f"{request.kind}: {len(away)} of {len(wanted)} clients were away")
    return values
