"""Which algorithms their laws are checked on: a new file in `quorate/algorithms` is tested unasked.

Instances are made from defaults, and from its `EXAMPLES` if it has some.
"""

from __future__ import annotations

import importlib
from collections.abc import Sequence

import pytest

from quorate import parts
from quorate.algorithms import Algorithm

NAMES = sorted(parts.names("algorithm"))


def examples(name: str) -> Sequence[Algorithm]:
    module = importlib.import_module(f"quorate.algorithms.{name}")
    given: Sequence[Algorithm] = getattr(module, "EXAMPLES", ())
    return given or (parts.find("algorithm", name)(),)


law = pytest.mark.parametrize("algorithm", [each for name in NAMES for each in examples(name)], ids=repr)
