"""How the entries of an update are distributed, over the steps of a run: what a codec has to work with.

Every so many steps a run notes, in `histogram.jsonl`, how many entries of each size rank 0 hands over to be said, and
how much of their energy the largest hold. It is the update as the exchange is given it, before any codec: what error
feedback adds to it is not in it.

Source: Shi, Chu, Cheung and See, "Understanding top-k sparsification in distributed deep learning", 2019 (arXiv
1911.08772): gradients are bell-shaped, so that top-k loses at most (1 - k / d)^2 of their energy, not only 1 - k / d.
"""

from __future__ import annotations

from math import sqrt
from typing import Any, Protocol

import torch
from torch import Tensor

from quorate.rand import At

RATIOS = (0.001, 0.01)
"""The k / d of which the energy of the k largest entries is noted."""

_CHUNK = 1 << 22  # entries that are looked at together, as float64
_OUTERMOST = 2000  # the bins from -2000 to 2000 are sizes from 2^-1000 to 2^1000; these two hold what lies beyond
_BINS = 2 * _OUTERMOST + 1


def measure(x: Tensor) -> dict[str, Any]:
    """Return the distribution of an update's entries.

    Args:
        x: (d,), floating; it is only read.

    Returns:
        `entries` (d), of which `zeros` and `wrong` (NaN or infinite) are in no bin; `positive` and `negative`, the
        numbers of entries with 2^(b / 2) <= |x| < 2^((b + 1) / 2) for b = `first`, `first` + 1, ...; `mean`, `sigma`
        and `kurtosis` (3 for a normal distribution) of the finite entries; `top`, for each of `RATIOS` [k, the share
        in [0, 1] of the energy ||x||^2 that the k largest hold]. What is not defined, of zeros for instance, is None.

    Takes O(d) time, and memory for |x|.
    """
    finite = torch.isfinite(x)
    wrong = len(x) - int(finite.sum())
    size = (x[finite] if wrong else x).abs()
    largest = float(size.max()) if len(size) else 0.0
    told = {"entries": len(x), "zeros": int((size == 0).sum()), "wrong": wrong}
    told |= _binned(x[finite] if wrong else x) | _moments(x[finite] if wrong else x, largest)
    return told | {"top": [_energy(size, largest, ratio) for ratio in RATIOS]}


def _binned(x: Tensor) -> dict[str, Any]:
    counts = torch.zeros(2 * _BINS, dtype=torch.int64, device=x.device)
    for chunk in x.split(_CHUNK):
        chunk = chunk[chunk != 0].double()
        mantissa, exponent = torch.frexp(chunk.abs())
        bins = (2 * exponent.long() - 2 + (mantissa >= sqrt(0.5))).clamp(-_OUTERMOST, _OUTERMOST) + _OUTERMOST
        counts += torch.bincount(bins + _BINS * (chunk < 0), minlength=2 * _BINS)
    positive, negative = counts.view(2, _BINS).cpu()
    held = (positive + negative).nonzero()
    if not len(held):
        return {"first": 0, "positive": [], "negative": []}
    first, last = int(held[0]), int(held[-1])
    return {
        "first": first - _OUTERMOST,
        "positive": positive[first : last + 1].tolist(),
        "negative": negative[first : last + 1].tolist(),
    }


def _moments(x: Tensor, largest: float) -> dict[str, Any]:
    if not largest:
        return {"mean": 0.0 if len(x) else None, "sigma": 0.0 if len(x) else None, "kurtosis": None}
    chunks, n = x.split(_CHUNK), len(x)
    mean = sum(float((chunk.double() / largest).sum()) for chunk in chunks) / n
    second = fourth = 0.0
    for chunk in chunks:
        squares = (chunk.double() / largest - mean).square_()
        second += float(squares.sum()) / n
        fourth += float(squares.square_().sum()) / n
    kurtosis = fourth / second**2 if second > 1e-30 else None
    return {"mean": mean * largest, "sigma": sqrt(second) * largest, "kurtosis": kurtosis}


def _energy(size: Tensor, largest: float, ratio: float) -> list[Any]:
    k = min(len(size), max(1, round(ratio * len(size))))
    if not largest:
        return [k, None]
    whole = sum(float((chunk.double() / largest).square_().sum()) for chunk in size.split(_CHUNK))
    return [k, float((size.topk(k, sorted=False).values.double() / largest).square_().sum()) / whole]


class Lines(Protocol):
    """A file of JSON lines, one for a step."""

    @property
    def last(self) -> int:
        """The step of the last line, 0 if there is none."""

    def write(self, line: dict[str, Any]) -> None:
        """Add a line."""

    def close(self) -> None:
        """Close the file."""


class Histograms:
    """What a run notes of the updates that rank 0 hands over, a line for each step that is due.

    Due is the first message at or after each multiple of `interval` steps: a program may meet more rarely.

    Args:
        lines: where to; None for nowhere.
        interval: in steps, at least 1 if there are lines.
    """

    def __init__(self, lines: Lines | None, interval: int) -> None:
        self._lines, self._interval = lines, interval
        self._last = lines.last if lines is not None else 0
        self._pieces: list[Tensor] = []

    def watch(self, update: Tensor, at: At) -> None:
        """Look at an update, or at a piece of one, of shape (d,), before it is given away."""
        if self._lines is None or at.rank:
            return
        step = at.step + 1
        if step != self._last or not self._pieces:
            self.flush()
            if step // self._interval <= self._last // self._interval:
                return
            self._last = step
        self._pieces.append(update.detach().clone())

    def flush(self) -> None:
        """Note what was handed over, because the step is done."""
        if self._pieces and self._lines is not None:
            whole, self._pieces = torch.cat(self._pieces), []
            self._lines.write({"step": self._last} | measure(whole))

    def close(self) -> None:
        """Close the file."""
        if self._lines is not None:
            self._lines.close()
