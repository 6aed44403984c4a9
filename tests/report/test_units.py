from __future__ import annotations

import math

import pytest

from quorate.report import units


@pytest.mark.parametrize(
    ("value", "text"),
    [
        (None, "–"),  # noqa: RUF001
        (0, "0 s"),
        (4e-5, "40.0 µs"),
        (0.35, "350 ms"),
        (95, "95.0 s"),
        (600, "10.0 min"),
        (9000, "2.50 h"),
        (math.nan, "nan"),
    ],
)
def test_times_are_written_in_sensible_units(value, text):
    assert units.seconds(value) == text


@pytest.mark.parametrize(("value", "text"), [(0, "0 B"), (999, "999 B"), (1234567, "1.23 MB"), (5e18, "5,000 PB")])
def test_bytes_are_written_with_si_prefixes(value, text):
    assert units.size(value) == text
