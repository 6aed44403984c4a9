from __future__ import annotations

import pytest
from pydantic import ValidationError

from quorate.settings import ProcessSettings, RecordSettings, SimulatorSettings


@pytest.mark.parametrize(
    ("model", "values"),
    [
        (SimulatorSettings, {"batching": "fast"}),
        (SimulatorSettings, {"threads": 0}),
        (ProcessSettings, {"device": "tpu"}),
        (ProcessSettings, {"timeout": 0}),
        (RecordSettings, {"metrics": 0}),
        (RecordSettings, {"checkpoint": -1}),
        (RecordSettings, {"every": 3}),
    ],
)
def test_values_that_mean_nothing_are_refused(model, values):
    with pytest.raises(ValidationError):
        model(**values)
