"""When to meet: a period says after which steps.

A period is a function in a file of its name, `(step, *, ...) -> bool`, where step is the number of steps done.
"""

from __future__ import annotations

from collections.abc import Callable

Period = Callable[[int], bool]
