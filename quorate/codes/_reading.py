"""Telling wrong answers apart, in passes over all answers that each see errors which larger ones have hidden before."""

from __future__ import annotations

from collections.abc import Mapping

import torch
from torch import Tensor

from quorate.codes import _circle, _locator, _rows

_SUBNORMAL = 2.0**-250
"""The power of what rounding takes from numbers so small that it is no part of them, of any number of coordinates."""


def told_apart(
    rows: Mapping[int, Tensor], n: int, s: int, real: bool, rounding: float
) -> tuple[list[int], set[int]] | None:
    """Return the places to decode from, and those whose answers are wrong; None if more than s are wrong or missing.

    Args:
        rows: answers (d,), by place.
        real: see `_circle`.
        rounding: by which part of its length an honest answer is off at most.
    """
    if n - len(rows) > s:
        return None
    span, node = _circle.basis(n, s, real), _circle.nodes(n)
    taken: dict[tuple[int, ...], tuple[Tensor, Tensor]] = {}

    def power(places: list[int]) -> tuple[Tensor, Tensor]:
        if tuple(places) not in taken:
            taken[tuple(places)] = _rows.power([rows[place] for place in places], _circle.checks(span, places))
        return taken[tuple(places)]

    def measure(places: list[int]) -> _locator.Measured:
        found, squares = power(places)
        checks = _circle.checks(span, places)
        change = _circle.moments(n, s, real, places) @ checks.mH.to(node.dtype)
        floor = rounding**2 * float(squares.sum()) + _SUBNORMAL
        return _locator.Measured(found, floor, checks, change, node[places])

    places = sorted(rows)
    squares = dict(zip(places, power(places)[1].tolist(), strict=True))
    sound = [place for place in places if squares[place] < torch.inf]
    most = s - (n - len(sound))
    kept = _locator.located(measure, sound, most) if most >= 0 else None
    if kept is None:
        return None
    left_out = [place for place in sound if place not in kept]
    return kept, set(places) - set(sound) | _wrong(rows, kept, left_out, span, squares, rounding)


def _wrong(
    rows: Mapping[int, Tensor],
    kept: list[int],
    left_out: list[int],
    span: Tensor,
    squares: Mapping[int, float],
    rounding: float,
) -> set[int]:
    """Return those of the places left out that have answered something else than follows from the kept ones."""
    if not left_out:
        return set()
    follows = span[left_out] @ torch.linalg.pinv(span[kept])
    off, _ = _rows.power(
        [rows[place] for place in kept + left_out], torch.cat([-follows, torch.eye(len(left_out), dtype=span.dtype)], 1)
    )
    length = torch.tensor([squares[place] for place in kept], dtype=torch.float64).sqrt()
    allowed = rounding * (follows.abs() @ length)
    return {
        place
        for place, error, most in zip(left_out, off.diagonal().real.sqrt().tolist(), allowed.tolist(), strict=True)
        if error > most + rounding * squares[place] ** 0.5 + _SUBNORMAL**0.5
    }
