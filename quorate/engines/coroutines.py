"""Running thousands of coroutines: how Python is set up meanwhile, and what it says of those that were forgotten."""

from __future__ import annotations

import gc
import sys
import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

_COLLECT = (100_000, 50, 100)  # the garbage collector's thresholds: there are many objects, but hardly any cycles


@contextmanager
def many_coroutines() -> Iterator[None]:
    """Look for cycles of garbage more seldom, which at Python's own pace is half of the time; see `note_origins`."""
    depth, thresholds = sys.get_coroutine_origin_tracking_depth(), gc.get_threshold()
    note_origins(True)
    gc.set_threshold(*_COLLECT)
    gc.freeze()
    try:
        yield
    finally:
        gc.unfreeze()
        gc.set_threshold(*thresholds)
        sys.set_coroutine_origin_tracking_depth(depth)


def note_origins(wanted: bool) -> None:
    """Have Python note where each coroutine is made, for its warning if nobody awaits it; a tenth of the time."""
    sys.set_coroutine_origin_tracking_depth(int(wanted))


@contextmanager
def never_awaited() -> Iterator[list[str]]:
    """Yield a list that gets Python's warnings of coroutines that nobody has awaited, while in this context."""
    told: list[str] = []
    with warnings.catch_warnings():
        warnings.filterwarnings("always", message="coroutine .* was never awaited", category=RuntimeWarning)
        usual = warnings.showwarning

        def show(message: Warning | str, category: type[Warning], *rest: Any, **more: Any) -> None:
            text = str(message)
            if "was never awaited" in text:
                told.append(" ".join(text.split()))
            else:
                usual(message, category, *rest, **more)

        warnings.showwarning = show
        yield told
