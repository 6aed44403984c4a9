"""Mistakes a person can put right: they are printed as one message, never as a traceback."""

from __future__ import annotations

import difflib
from collections.abc import Iterable


class QuorateError(Exception):
    """Something a user can mend; the message says what was wrong, where, and what is accepted.

    Args:
        problem: one sentence in the user's words, with the value that was given.
        hint: what to type instead; printed on a line of its own.
    """

    def __init__(self, problem: str, hint: str | None = None) -> None:
        self.problem, self.hint = problem, hint
        super().__init__(problem if hint is None else f"{problem}\nhint: {hint}")


class RecipeError(QuorateError):
    """The recipe, or a value given on the command line, can't be what was meant."""


class DataError(QuorateError):
    """A data file or folder is missing, cut short, too large, or not of the stated format."""


class RunError(QuorateError):
    """A run stopped: the message names the rank and the step; checkpoints are kept."""


def suggestion(given: str, known: Iterable[str]) -> str:
    """Return "did you mean `x`?" if a known name is close to the given one, else the list of known names."""
    names = sorted(known)
    close = difflib.get_close_matches(given.lower().replace("-", "_"), names, n=1, cutoff=0.6)
    if close:
        return f"did you mean `{close[0]}`?"
    return "known: " + ", ".join(f"`{name}`" for name in names) if names else "nothing is accepted here"
