"""What the laws of every codec share: a new file in `quorate/codecs` is tested unasked.

Instances come from its `EXAMPLES`, or are made from defaults. They stand first on the wire: a codec that needs another
one before it gives chains as its examples.
"""

from __future__ import annotations

import importlib
from collections.abc import Sequence
from dataclasses import MISSING, fields
from types import ModuleType
from typing import Any

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from quorate import parts
from quorate.codecs import Codec
from quorate.rand import At, Rand
from tests.tiny import randn

SIZE, STEPS = 4, 3


def examples(module: ModuleType, part: Any) -> Sequence[Codec]:
    """Return the instances of a codec that its laws are checked on."""
    given_by_author: Sequence[Codec] = getattr(module, "EXAMPLES", ())
    if given_by_author:
        return given_by_author
    needed = [each.name for each in fields(part) if each.default is MISSING and each.default_factory is MISSING]
    if needed:
        raise AssertionError(
            f"{module.__name__} has no EXAMPLES, but {part.__name__} can't be made without {', '.join(needed)}"
            f"\nhint: EXAMPLES = ({part.__name__}({needed[0]}=...),)"
        )
    return (part(),)


def of_name(name: str) -> Sequence[Codec]:
    return examples(importlib.import_module(f"quorate.codecs.{name}"), parts.find("codec", name))


NAMES = sorted(parts.names("codec"))
SPEAKING = [name for name in NAMES if not any(hasattr(codec, "meet") for codec in of_name(name))]
"""Those whose messages one peer can decode; the others are known by their meetings."""

draws = given(
    d=st.integers(1, 40),
    dtype=st.sampled_from([torch.float32, torch.float64]),
    seed=st.integers(0, 10**6),
    number=st.integers(0, 10**6),
)


def law(test=None, *, names: Sequence[str] = SPEAKING, max_examples: int = 20):
    """Check on every codec that speaks, or on those named, for updates of any length."""
    if test is None:
        return lambda test: law(test, names=names, max_examples=max_examples)
    drawn_often = settings(deadline=None, max_examples=max_examples)(draws(test))
    return pytest.mark.parametrize("name", names)(drawn_often)


def drawn(name: str, d: int, dtype: torch.dtype, seed: int, number: int):
    """Return one of a codec's instances and the updates (SIZE, d) of as many workers."""
    instances = of_name(name)
    return instances[number % len(instances)], randn(SIZE, d, seed=seed, dtype=dtype)


def at(rank: int, seed: int, step: int = 0) -> At:
    return At(step, rank, SIZE, Rand(seed))


def said_of(codec: Codec, x: torch.Tensor, where: At) -> torch.Tensor:
    """Return what the first message says of an update."""
    head, side, _ = codec.encode(x.clone(), codec.init(x), where)
    return codec.decode(head, side, x, where)
