"""Meetings as hostile workers see them, on random updates."""

from __future__ import annotations

import importlib
import inspect
from dataclasses import replace

import torch

from quorate import parts
from quorate.attacks import Attack, Seen
from quorate.rand import At, Rand
from tests.tiny import randn

NAMES = sorted(parts.names("attack"))


def examples(name: str) -> tuple[Attack, ...]:
    """Return the instances of an attack that its laws are checked on."""
    module, made = importlib.import_module(f"quorate.attacks.{name}"), parts.find("attack", name)
    given_by_author = getattr(module, "EXAMPLES", ())
    if not given_by_author:
        needed = [each.name for each in parts.settings(made).values() if each.default is inspect.Parameter.empty]
        assert not needed, f"{module.__name__} needs EXAMPLES, of instances with {needed[0]}"
    return given_by_author or (made(),)


def meeting(
    n: int = 7,
    f: int = 2,
    d: int = 5,
    *,
    m: int | None = None,
    step: int = 0,
    seed: int = 0,
    dtype: torch.dtype = torch.float64,
) -> list[Seen]:
    """Return what the last f of n workers see, who know m honest updates, all n - f unless said."""
    known = randn(n - f if m is None else m, d, seed=seed, dtype=dtype) + 1
    own = randn(f, d, seed=seed + 1, dtype=dtype) + 1
    hostile = tuple(range(n - f, n))
    return [Seen(own[i], known, hostile, At(step, rank, n, Rand(seed))) for i, rank in enumerate(hostile)]


def one(n: int = 7, f: int = 2, d: int = 5, **settings: object) -> Seen:
    """Return what the first of the hostile sees; `settings` are those of `meeting`, or fields of `Seen`."""
    fields = {name: settings.pop(name) for name in ("last", "aggregator", "among", "known", "own") if name in settings}
    return replace(meeting(n, f, d, **settings)[0], **fields)
