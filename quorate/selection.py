"""Finding the largest entries of a long vector in passes to read it, without another vector of its length.

On the CPU a pass goes in pieces that fit the cache, on one core: the arithmetic is numpy's, whose loops start no
threads, because waiting for a busy core costs more than a piece takes. On a GPU, `quorate.kernels` run where they can.
Elsewhere the plain functions do: they are the definitions that the tests compare with. Entries are expected to be
finite; NaN exceeds no threshold, and is as good as infinite where so many entries must be chosen.
"""

from __future__ import annotations

import math
from collections.abc import Iterator
from typing import NamedTuple

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor

from quorate import kernels

Array = npt.NDArray[np.floating]

_PIECE = 1 << 17  # entries, whose absolute values and mask take 640 KiB: smaller ones gained nothing, and lost by calls
_SAMPLE = 1 << 14
_THINNED = 16  # a vector is sampled down to at most this part
_SURE = 4.0  # standard deviations by which a sample's threshold is too low, so that rarely too few exceed it
_DENSE = 0.4  # of the entries: from here on nothing is gained by a threshold


class Chosen(NamedTuple):
    """Entries of a vector.

    Args:
        indices: (m,), int64, ascending.
        magnitudes: (m,), their absolute values; of half precision, as float32.
    """

    indices: Tensor
    magnitudes: Tensor

    def above(self, threshold: float) -> Chosen:
        """Return those that exceed a threshold; O(m)."""
        return self._at(_true(self.magnitudes > threshold))

    def _at(self, places: Tensor) -> Chosen:
        return Chosen(entries(self.indices, places), entries(self.magnitudes, places))


def above(x: Tensor, threshold: float) -> Chosen:
    """Return the entries of x, of shape (d,), whose absolute values exceed a threshold; one pass."""
    if kernels.usable(x):
        from quorate.kernels import above as finding

        return Chosen(*finding.above(x, threshold))
    if x.device.type != "cpu":
        return plain_above(x, threshold)
    indices, magnitudes, mask = [], [], np.empty(min(_PIECE, len(x)), np.bool_)
    for start, piece in _magnitudes(x):
        (found,) = np.greater(piece, threshold, out=mask[: len(piece)]).nonzero()
        if len(found):
            magnitudes.append(piece[found])
            found += start
            indices.append(found)
    if not indices:
        return Chosen(torch.empty(0, dtype=torch.int64), x.new_empty(0, dtype=_computed(x)))
    return Chosen(torch.from_numpy(np.concatenate(indices)), torch.from_numpy(np.concatenate(magnitudes)))


def plain_above(x: Tensor, threshold: float) -> Chosen:
    """Define `above`."""
    index = (x.abs() > threshold).nonzero()[:, 0]
    return Chosen(index, x[index].abs().to(_computed(x)))


def largest(x: Tensor, k: int) -> Chosen:
    """Return k entries of the largest absolute values, exactly; of equal ones, any; see `at_least`."""
    return most(at_least(x, k), k)


def at_least(x: Tensor, k: int) -> Chosen:
    """Return k entries or a few more, of which none is smaller than one that is left out.

    A threshold that a few more than k should exceed is read off a sample. If fewer do, they are found without it.

    Args:
        x: (d,).
        k: from 0 to d.

    Takes one pass and O(k), unless the sample misleads: then two or three, and memory of the size of x.
    """
    d, sample = len(x), strided(x, _SAMPLE)
    expected = k * len(sample) / d if d else 0.0
    rank = math.ceil(expected + _SURE * math.sqrt(expected) + _SURE)
    if k and k < _DENSE * d and rank <= len(sample):
        threshold = threshold_of(sample, rank)
        found = above(x, threshold)
        if len(found.indices) >= k:
            return found
        if threshold == 0:
            return _filled(found, k)
    if x.device.type != "cpu":
        return plain_largest(x, k)
    magnitudes = np.abs(_array(x))
    magnitudes[np.isnan(magnitudes)] = np.inf
    places = _largest_places(magnitudes, k)
    return Chosen(torch.from_numpy(places), torch.from_numpy(magnitudes[places]))


def plain_largest(x: Tensor, k: int) -> Chosen:
    """Define `largest`."""
    index = x.abs().topk(k).indices.sort().values
    return Chosen(index, x[index].abs().to(_computed(x)))


def most(chosen: Chosen, k: int) -> Chosen:
    """Return the k largest of chosen entries, of equal ones any; all, if they are no more."""
    if len(chosen.indices) <= k:
        return chosen
    if chosen.magnitudes.device.type != "cpu":
        return chosen._at(chosen.magnitudes.topk(k, sorted=False).indices.sort().values)
    return chosen._at(torch.from_numpy(_largest_places(chosen.magnitudes.numpy(), k)))


def strided(x: Tensor, size: int, offset: int = 0, part: int = _THINNED) -> Tensor:
    """Return every so-many-th entry of x, of shape (d,), as a view.

    Args:
        size: of the sample, about, but at most one in `part` of d; the stride is a prime, so that it does not keep step
            with the rows of a layer.
        offset: which entries, from 0; taken modulo the stride.
    """
    size = min(size, len(x) // part)
    stride = _prime_up_to(len(x) // size) if size else 1
    return x[offset % stride :: stride] if size else x[:0]


def threshold_of(sample: Tensor, rank: int) -> float:
    """Return the rank-th largest absolute value of a sample (m,); rank from 1 to m."""
    if sample.device.type != "cpu":
        return float(sample.abs().topk(rank).values[-1])
    return _kth_largest(np.abs(_array(sample)), rank)


def entries(x: Tensor, places: Tensor) -> Tensor:
    """Return x[places], for x of shape (d,) and places (m,), int64, on x's device."""
    if x.device.type != "cpu" or x.dtype == torch.bfloat16:  # which numpy has not
        return x[places]
    return torch.from_numpy(x.detach().numpy()[places.numpy()])


def take(x: Tensor, places: Tensor) -> Tensor:
    """Return x[places], and set these entries to zero: `entries` tells the shapes, no place is there twice."""
    if kernels.usable(x):
        from quorate.kernels import take as taking

        return taking.take(x, places)
    taken = x[places]
    x[places] = 0
    return taken


def moments(x: Tensor) -> tuple[float, float]:
    """Return mean and standard deviation of x, of shape (d,), d > 0; one pass."""
    d = len(x)
    if kernels.usable(x):
        from quorate.kernels import sums

        total, square = sums.moments(x)
    elif x.device.type != "cpu":
        wide = x.to(_computed(x))
        total, square = float(wide.sum()), float(torch.dot(wide, wide))
    else:
        total = square = 0.0
        for _, piece in _pieces(x):
            total += float(np.einsum("i->", piece))
            square += float(np.einsum("i,i->", piece, piece))
    mean = total / d
    return mean, math.sqrt(max(0.0, square / d - mean * mean))


def mean_and_largest_magnitude(x: Tensor) -> tuple[float, float]:
    """Return the mean and the largest of the absolute values of x, of shape (d,), d > 0; one pass."""
    if kernels.usable(x):
        from quorate.kernels import sums

        total, top = sums.magnitudes(x)
        return total / len(x), top
    if x.device.type != "cpu":
        wide = x.to(_computed(x)).abs()
        return float(wide.mean()), float(wide.max())
    total = top = 0.0
    for _, piece in _magnitudes(x):
        total += float(piece.sum())
        top = max(top, float(piece.max()))
    return total / len(x), top


def largest_of_blocks(x: Tensor, block: int) -> Tensor:
    """Return where the largest absolute value of each block of `block` entries is; the last may be shorter; one pass.

    Returns:
        (ceil(d / block),), int64, ascending; of equal ones, any.
    """
    d, whole = len(x), len(x) // block
    if kernels.usable(x, block):
        from quorate.kernels import blocks

        return blocks.largest_of_blocks(x, block)
    if x.device.type != "cpu":
        inside = x[: whole * block].reshape(whole, block).abs().argmax(dim=1)
    else:
        at_once, found = max(1, _PIECE // block), [np.empty(0, np.int64)]
        for start in range(0, whole, at_once):
            rows = _array(x[start * block : min(whole, start + at_once) * block])
            found.append(np.abs(rows).reshape(-1, block).argmax(axis=1))
        inside = torch.from_numpy(np.concatenate(found))
    index = inside + torch.arange(0, whole * block, block, device=x.device)
    if whole * block < d:
        index = torch.cat([index, whole * block + x[whole * block :].abs().argmax().reshape(1)])
    return index


def _filled(found: Chosen, k: int) -> Chosen:
    """Add the first zeros to entries that are all that are not zero, so that they are k."""
    index, magnitude = found
    free = torch.ones(k, dtype=torch.bool, device=index.device)
    free[index[index < k]] = False
    zeros = free.nonzero()[: k - len(index), 0]
    both, order = torch.cat([index, zeros]).sort()
    return Chosen(both, torch.cat([magnitude, magnitude.new_zeros(len(zeros))])[order])


def _true(mask: Tensor) -> Tensor:
    return torch.from_numpy(np.flatnonzero(mask.numpy())) if mask.device.type == "cpu" else mask.nonzero()[:, 0]


def _largest_places(magnitudes: Array, k: int) -> npt.NDArray[np.int64]:
    """Return where the k largest are, ascending; there is no NaN."""
    if not k:
        return np.empty(0, np.int64)
    least = _kth_largest(magnitudes, k)
    keep = magnitudes > least
    equal = np.flatnonzero(magnitudes == least)
    keep[equal[: k - int(np.count_nonzero(keep))]] = True
    return np.flatnonzero(keep)


def _kth_largest(values: Array, k: int) -> float:
    return float(np.partition(values, len(values) - k)[len(values) - k])


def _prime_up_to(number: int) -> int:
    """Return the largest prime not above a number, or 1."""
    while number > 3 and any(number % each == 0 for each in range(2, math.isqrt(number) + 1)):
        number -= 1
    return max(1, number)


def _computed(x: Tensor) -> torch.dtype:
    return x.dtype if x.dtype in (torch.float32, torch.float64) else torch.float32


def _array(x: Tensor) -> Array:
    array: Array = x.detach().to(_computed(x)).numpy()
    return array


def _pieces(x: Tensor) -> Iterator[tuple[int, Array]]:
    if x.dtype == _computed(x):
        array = _array(x)
        yield from ((start, array[start : start + _PIECE]) for start in range(0, len(x), _PIECE))
    else:
        yield from ((start, _array(x[start : start + _PIECE])) for start in range(0, len(x), _PIECE))


def _magnitudes(x: Tensor) -> Iterator[tuple[int, Array]]:
    """Yield (start, absolute values) of pieces, all in the same memory."""
    memory: Array | None = None
    for start, piece in _pieces(x):
        if memory is None:
            memory = np.empty_like(piece)
        yield start, np.abs(piece, out=memory[: len(piece)])
