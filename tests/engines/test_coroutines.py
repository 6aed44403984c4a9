from __future__ import annotations

import gc
import sys
import warnings

import pytest

from quorate.engines.coroutines import many_coroutines, never_awaited, note_origins


async def forgotten():
    return 1


def test_what_was_set_is_set_back_even_after_an_error():
    before = gc.get_threshold(), sys.get_coroutine_origin_tracking_depth()

    def fails():
        with many_coroutines():
            assert gc.get_threshold() != before[0]
            note_origins(True)
            raise RuntimeError

    with pytest.raises(RuntimeError):
        fails()
    assert (gc.get_threshold(), sys.get_coroutine_origin_tracking_depth()) == before


def test_a_coroutine_that_nobody_awaits_is_told_and_other_warnings_pass():
    with never_awaited() as told:
        forgotten()
        with pytest.warns(UserWarning, match="something else"):
            warnings.warn("something else", UserWarning, stacklevel=1)
    assert [each.split(" was")[0] for each in told] == ["coroutine 'forgotten'"]
