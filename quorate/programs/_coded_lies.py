"""What hostile workers say in a program with a redundancy code, in which anybody can take the gradient of any batch."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Literal

import torch
from torch import Tensor

from quorate.attacks import Attack, Seen
from quorate.codes import Code
from quorate.gradient import Batch
from quorate.hostility import Hostility
from quorate.rand import At
from quorate.replicas import Replicas

Forges = Literal["gradients", "answer", "upload"]
"""What is forged: the gradients before they are encoded; the answer that is made of them; or, after an honest vote,
what is sent when the worker is asked for its answer, which is the answer itself where nobody votes."""


def answer_and_upload(
    hostility: Hostility,
    forges: Forges,
    code: Code,
    replicas: Replicas,
    parameters: Tensor,
    batches: Sequence[Batch],
    held: Sequence[int],
    at: At,
) -> tuple[Tensor | None, Tensor | None]:
    """Return what a hostile worker votes for, and what it sends when it is asked for it; None for nothing.

    Args:
        batches: all of the step.
        held: those of which the worker takes the gradients.
    """
    gradients = [_poisoned(hostility, replicas, parameters, batches, number) for number in held]
    if forges != "gradients":
        honest = code.encode(gradients, at.size, at.rank)
        said = _forged(hostility, honest, honest.unsqueeze(0), at)
        return (said if forges == "answer" else honest), said
    if hostility.knows == "all":
        known = torch.stack([replicas.take(parameters, batches, number)[1] for number in range(len(batches))])
    else:
        known = torch.stack(gradients)
    forged = []
    for number, own in zip(held, gradients, strict=True):
        said = _forged(hostility, own, known, at, number)
        if said is None:
            return None, None
        forged.append(said)
    answer = code.encode(forged, at.size, at.rank)
    return answer, answer


def _forged(hostility: Hostility, own: Tensor, known: Tensor, at: At, *about: int) -> Tensor | None:
    rand = hostility.rand.fold("batch", *about) if about else hostility.rand
    hostile = hostility.at(at.step, at.size)
    return hostility.attack.forge(Seen(own, known, hostile, at._replace(rand=rand)))


def _poisoned(
    hostility: Hostility, replicas: Replicas, parameters: Tensor, batches: Sequence[Batch], number: int
) -> Tensor:
    """Return the gradient of a batch, of which the samples have been changed if that is what the attack does."""
    attack, batch = hostility.attack, batches[number]
    if type(attack).poisoned is Attack.poisoned:
        return replicas.take(parameters, batches, number)[1]
    stream = hostility.rand.fold("poison", *batch.stream)
    samples = attack.poisoned(replicas.samples(batch), replicas.classes, stream)
    return replicas.take_instead(parameters, batches, number, samples)[1]
