"""Norm clipping: no update is longer than a radius that is set once.

Source: Sun, Kairouz, Suresh and McMahan, "Can you really backdoor federated learning?", arXiv:1911.07963, 2019, section
4 ("norm thresholding"; the section from memory). It bounds what one liar can do and withstands none by itself: put a
robust aggregator behind it. A radius that fits the first rounds is too large for the last ones: `adaptive_clipping`.
"""

from __future__ import annotations

from functools import partial
from math import inf

from torch import Tensor

from quorate.aggregators._blocks import lengths
from quorate.aggregators._screening import check_updates
from quorate.pre_aggregators._clipping import shortened


def norm_clipping(updates: Tensor, *, radius: float) -> Tensor:
    """Return the updates, those longer than the radius scaled down to it.

    Args:
        updates: (n, d), of any float dtype; rows that are not finite stay so, for the aggregator to leave out.
        radius: the greatest Euclidean norm, in the updates' unit; more than 0.

    Returns:
        (n, d), of the updates' dtype; the updates themselves if none is too long.

    Raises:
        ValueError: if there are no updates, or the radius is not above 0.
    """
    check_updates("norm_clipping", updates)
    if not 0 < radius < inf:
        raise ValueError(f"norm_clipping needs a radius above 0, got {radius}")
    return shortened(updates, dict(enumerate(lengths(updates, range(len(updates))))), radius)


EXAMPLES = (partial(norm_clipping, radius=2.0),)
