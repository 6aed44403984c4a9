"""A fixed period: meet after every tau steps."""

from __future__ import annotations

from quorate.errors import RecipeError


def every(step: int, *, tau: int = 1) -> bool:
    """Return whether to meet after this step.

    Args:
        step: the number of steps done.
        tau: the period, at least 1.

    Raises:
        RecipeError: if tau is less than 1.
    """
    if tau < 1:
        raise RecipeError(f"`tau` is the number of steps between two meetings, at least 1; got {tau}", "tau = 8")
    return step % tau == 0
