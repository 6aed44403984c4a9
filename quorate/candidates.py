"""Codecs by name from the least to the most lossy, and what the messages of each would cost.

A candidate is "dense", or the name of a codec, with a number for its first setting if it has one: "sampled_k 0.01". A
biased one remembers what it does not say, by `error_feedback`, unless it does so itself or loses only rounding.
"""

from __future__ import annotations

import json
import time
from collections.abc import Generator
from dataclasses import dataclass
from typing import Any

from torch import Tensor

from quorate import parts
from quorate.adaptive import Cost
from quorate.codecs import Codec
from quorate.codecs.error_feedback import ErrorFeedback
from quorate.codecs.identity import Identity
from quorate.errors import RecipeError, suggestion
from quorate.rand import At, Rand
from quorate.wire import size_in_bytes

DENSE = "dense"
LADDER = (DENSE, "bf16", "int8", "sampled_k 0.01", "power_sgd", "sampled_k 0.001")
_ROUNDED = ("bf16", "fp16")
_OF_OTHERS = ("adaptive", "error_feedback")


def codec_of(candidate: str) -> Codec:
    """Return a candidate's codec.

    Raises:
        RecipeError: if there is none of that name, or its setting can't be the number that is given.
    """
    name, *numbers = candidate.split() or [""]
    if name == DENSE and not numbers:
        return Identity()
    known = [each for each in parts.in_recipes("codec") if each not in _OF_OTHERS]
    if name not in known:
        raise RecipeError(f"`adaptive` has no candidate `{candidate}`", suggestion(name, [DENSE, *known]))
    table: dict[str, Any] = {"name": name}
    if numbers:
        accepted = list(parts.settings(parts.find("codec", name)))
        try:
            (number,) = map(json.loads, numbers)
            table[accepted[0]] = number
        except (ValueError, IndexError) as error:
            raise RecipeError(
                f"`adaptive` can't read the candidate `{candidate}`",
                'a codec and a number at most, e.g. "sampled_k 0.01"',
            ) from error
    codec: Codec = parts.build("codec", table)
    plain = codec.unbiased or name in _ROUNDED or hasattr(codec, "meet")
    return codec if plain else ErrorFeedback(codec)


@dataclass(frozen=True)
class _Done:
    """A sum that is there at once."""

    tensor: Tensor

    def __await__(self) -> Generator[Any, None, Tensor]:
        yield from ()
        return self.tensor


@dataclass(frozen=True)
class _Somebody:
    """As much of a node as a codec of several meetings looks at."""

    size: int
    rank: int = 0


def cost_of(codec: Codec, update: Tensor, size: int, *, summed: bool, repeats: int = 3) -> Cost:
    """Code an update as one of several workers does, and take the time.

    Args:
        update: (d,), not written to.
        size: n, the number of workers.
        summed: messages are summed on their way.
        repeats: of which the quickest counts, after one that does not.

    Raises:
        QuorateError: if the codec can't say this update.
    """
    if isinstance(codec, Identity) and summed:
        return Cost((size_in_bytes((update,)),), 0.0, 0.0, True)
    state = codec.init(update)
    sizes: tuple[float, ...] = ()
    encoding, decoding = [], []
    for step in range(repeats + 1):
        at, x, said = At(step, 0, size, Rand(0)), update.clone(), _Said()
        began = time.perf_counter()
        if hasattr(codec, "meet"):
            x, state = _ended(codec.meet(_Somebody(size), x, state, at, 1 / size, said))
            middle = time.perf_counter()
            sizes = tuple(said.sizes)
        else:
            head, side, state = codec.encode(x, state, at)
            middle = time.perf_counter()
            sizes = (size_in_bytes((head, *side)),)
            if summed:
                x = codec.decode(head, side, x, at)
            else:
                for _ in range(size):
                    codec.add(x, head.clone(), side, 1 / size, at)
        encoding.append(middle - began)
        decoding.append(time.perf_counter() - middle)
    counted = slice(min(repeats, 1), None)
    return Cost(sizes, min(encoding[counted]), min(decoding[counted]), summed)


class _Said:
    """A collective that notes how many bytes it is given."""

    def __init__(self) -> None:
        self.sizes: list[float] = []

    def __call__(self, node: Any, tensor: Tensor, scale: float = 1.0) -> _Done:
        self.sizes.append(size_in_bytes((tensor,)))
        return _Done(tensor.mul_(scale) if scale != 1 else tensor)


def _ended(meeting: Any) -> Any:
    """Run a coroutine that waits for nothing."""
    try:
        meeting.send(None)
    except StopIteration as stop:
        return stop.value
    raise AssertionError("a meeting waits for something else than its collective")
