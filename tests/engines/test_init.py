from __future__ import annotations

import pytest

from quorate.engines import after, stopped
from quorate.errors import QuorateError


@pytest.mark.parametrize(
    ("seconds", "says"), [(0.0, "at once"), (0.04, "at once"), (0.1, "after 0.1 s"), (5.04, "after 5.0 s")]
)
def test_how_long_a_call_had_waited_is_said_if_it_had_waited(seconds, says):
    assert after(seconds) == says


def test_a_mistake_keeps_its_hint_when_it_is_said_where_it_happened():
    assert str(stopped(2, 7, QuorateError("no good", "better"))) == "rank 2, step 7: no good\nhint: better"
