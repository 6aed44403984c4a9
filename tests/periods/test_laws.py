"""Laws of every period; a new file in `quorate/periods` is tested unasked."""

from __future__ import annotations

import pytest

from quorate import parts

NAMES = sorted(parts.names("period"))


def test_the_folder_is_found():
    assert "every" in NAMES


@pytest.mark.parametrize("name", NAMES)
def test_is_a_function_of_the_step_that_needs_no_other_setting(name):
    period = parts.build("period", {"name": name})
    meets = [period(step) for step in range(1, 200)]
    assert all(isinstance(each, bool) for each in meets)
    assert [period(step) for step in reversed(range(1, 200))] == meets[::-1]
    assert any(meets)
