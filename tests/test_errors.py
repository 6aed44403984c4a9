from __future__ import annotations

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from quorate.errors import DataError, QuorateError, RecipeError, RunError, suggestion


def test_a_hint_stands_on_a_line_of_its_own():
    assert str(QuorateError("too many workers", "use 4")) == "too many workers\nhint: use 4"
    assert str(QuorateError("too many workers")) == "too many workers"


@pytest.mark.parametrize("kind", [RecipeError, DataError, RunError])
def test_every_kind_keeps_its_problem_and_hint(kind):
    error = kind("a problem", "a hint")
    assert isinstance(error, QuorateError)
    assert (error.problem, error.hint) == ("a problem", "a hint")


@pytest.mark.parametrize(
    ("given_name", "known", "says"),
    [
        ("topk", ["top_k", "identity"], "did you mean `top_k`?"),
        ("Top-K", ["top_k", "identity"], "did you mean `top_k`?"),
        ("zzz", ["top_k", "identity"], "known: `identity`, `top_k`"),
        ("F", ["f"], "did you mean `f`?"),
        ("anything", [], "nothing is accepted here"),
    ],
)
def test_suggestion(given_name, known, says):
    assert suggestion(given_name, known) == says


@given(known=st.sets(st.text("abcdefgh_", min_size=1), min_size=1), data=st.data())
@settings(deadline=None)
def test_a_known_name_suggests_itself_whatever_the_order(known, data):
    name = data.draw(st.sampled_from(sorted(known)))
    assert suggestion(name, data.draw(st.permutations(sorted(known)))) == f"did you mean `{name}`?"
