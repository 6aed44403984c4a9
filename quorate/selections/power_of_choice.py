"""Of some clients drawn by their samples, those with the highest losses: faster at first, and biased.

Source: Cho, Wang and Joshi, "Client selection in federated learning: convergence analysis and power-of-choice selection
strategies", arXiv 2010.01243, section 4; losses are the last ones told, its variant rpow-d, which costs no message.
"""

from __future__ import annotations

from collections.abc import Sequence
from math import inf

from quorate.errors import RecipeError
from quorate.rand import Rand
from quorate.selections import Known
from quorate.selections._draw import draw, samples


def power_of_choice(candidates: Sequence[int], count: int, rand: Rand, known: Known, *, d: int = 30) -> list[int]:
    """Draw `d` candidates with chances in proportion to their samples, and take those with the highest losses.

    Those that have told no loss yet come first; equal ones in the order in which they were drawn.

    Args:
        d: how many are drawn; at least as many as are asked.

    Raises:
        RecipeError: if `d` is less than 1.
    """
    if d < 1:
        raise RecipeError(f"`d` is a number of clients, at least 1; got {d}", "d = 30")
    drawn = draw(candidates, samples(candidates, known), max(d, count), rand)
    return sorted(sorted(drawn, key=lambda client: -known.losses.get(client, inf))[:count])
