"""Each client is there for the same hours of every day, e.g. by night, when it is charged and idle.

Source: Bonawitz et al., "Towards federated learning at scale", MLSys 2019, section 9 (four times as many devices take
part at night as by day, in one country).
"""

from __future__ import annotations

from random import Random

from quorate.availability._spans import Spans
from quorate.cluster import Seconds
from quorate.errors import RecipeError
from quorate.rand import Rand


def day_and_night(
    client: int, rand: Rand, *, there: Seconds = 28_800.0, period: Seconds = 86_400.0, spread: float = 1.0
) -> Spans:
    """Let each client begin its hours at a time of its own.

    Args:
        there: seconds of a day in which a client is there.
        period: seconds of a day.
        spread: share of the day over which the clients' beginnings are spread, in [0, 1]: 1, as many are there at any
            time; 0, all come and go together.

    Raises:
        RecipeError: if these are no days.
    """
    if not 0 < there <= period:
        raise RecipeError(f"a client is `there` for a part of the `period`; got {there:g} of {period:g} s", "there = 8")
    if not 0 <= spread <= 1:
        raise RecipeError(f"`spread` is a share of the day, in [0, 1]; got {spread:g}", "spread = 1.0")
    phase = Random(rand.fold("availability", client).seed).random() * spread * period
    return Spans([(phase, phase + there) if there < period else (0.0, period)], period)
