"""Requests on their way to simulated clients and back, and how a checkpoint holds them."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from enum import IntEnum
from math import inf

import torch
from torch import Tensor

from quorate.engines.presence import Loss
from quorate.errors import QuorateError
from quorate.federated import Answer, Request
from quorate.trees import Tree, branch, leaf
from quorate.wire import Message, Ragged

_KINDS = ("train", "evaluate", "alone")


class Phase(IntEnum):
    """Where an errand is."""

    DOWN = 0
    """The request is under way."""
    COMPUTING = 1
    """It has left the server, and the client computes until `due`."""
    UP = 2
    """The reply is under way."""
    BACK = 3
    """It has left the client, and arrives when `due`."""
    ARRIVED = 4
    """It waits for the server's program."""
    LOST = 5
    """It will not come, which the server is told when `due`."""


@dataclass
class Errand:
    """A request that a client has been asked.

    Args:
        number: counted from 1.
        loss: how it would come to nothing.
        since: seconds of the clock when the phase began.
        due: when it ends; inf while something is transferred.
        order: of the events, of those in one instant.
        result: the client's memory after it, and its answer, once they have been worked out.
    """

    client: int
    request: Request
    number: int
    loss: Loss
    since: float
    phase: Phase = Phase.DOWN
    due: float = inf
    order: int = 0
    result: tuple[Tree, Answer] | QuorateError | None = None


def saved(errands: Iterable[Errand]) -> Tree:
    """Return errands as a tree; what they share is held once."""
    whole: dict[str, Tree] = {}
    requests: dict[str, Tree] = {}
    for each in errands:
        request = each.request
        requests[_key(request.kind, request.round)] = {
            name: _packed(message) for name, message in request.tensors.items()
        }
        facts = [each.client, request.round, each.phase, _KINDS.index(request.kind), each.order]
        times = [each.since, each.due, each.loss.at, each.loss.told]
        one: dict[str, Tensor | Tree] = {
            "facts": torch.tensor([float(fact) for fact in facts], dtype=torch.float64),
            "times": torch.tensor(times, dtype=torch.float64),
            "why": _text(each.loss.why),
            "numbers": _numbers(request.numbers),
        }
        if isinstance(each.result, tuple):
            memory, answer = each.result
            messages = {name: _packed(message) for name, message in answer.messages.items()}
            one["result"] = {
                "is": torch.ones(1),
                "memory": memory,
                "messages": messages,
                "numbers": _numbers(answer.numbers),
            }
        whole[str(each.number)] = one
    return {"each": whole, "requests": requests}


def loaded(tree: Tree) -> list[Errand]:
    """Invert `saved`; errands come in the order of their numbers. What had failed is to be worked out again."""
    whole, requests = branch(tree, "each"), branch(tree, "requests")
    tensors = {
        key: {name: _unpacked(branch(branch(requests, key), name)) for name in branch(requests, key)}
        for key in requests
    }
    found = []
    for number in sorted(whole, key=int):
        one = branch(whole, number)
        client, round, phase, kind, order = (int(fact) for fact in leaf(one, "facts").tolist())
        since, due, at, told = leaf(one, "times").tolist()
        numbers = _values(branch(one, "numbers"))
        request = Request(round, tensors.get(_key(_KINDS[kind], round), {}), numbers, _KINDS[kind])
        loss = Loss(at, told, bytes(leaf(one, "why").tolist()).decode())
        result = None
        if "result" in one:
            held = branch(one, "result")
            messages = {name: _unpacked(branch(branch(held, "messages"), name)) for name in branch(held, "messages")}
            answer = Answer(client, round, messages, _values(branch(held, "numbers")), request.kind)
            result = branch(held, "memory"), answer
        found.append(Errand(client, request, int(number), loss, since, Phase(phase), due, order, result))
    return found


def _key(kind: str, round: int) -> str:
    return f"{kind}-{round}"


def _packed(message: Message) -> Tree:
    parts: dict[str, Tensor | Tree] = {str(place): tensor for place, tensor in enumerate(message)}
    return parts | {"ragged": torch.ones(1)} if isinstance(message, Ragged) else parts


def _unpacked(tree: Tree) -> Message:
    names = sorted((name for name in tree if name != "ragged"), key=int)
    parts = tuple(leaf(tree, name).clone() for name in names)  # sums depend on where in memory a tensor begins
    return Ragged(parts) if "ragged" in tree else parts


def _numbers(numbers: Mapping[str, float]) -> Tree:
    return {name: torch.tensor([value], dtype=torch.float64) for name, value in numbers.items()}


def _values(tree: Tree) -> dict[str, float]:
    return {name: float(leaf(tree, name).item()) for name in tree}


def _text(text: str) -> Tensor:
    return torch.tensor(list(text.encode()), dtype=torch.uint8)
