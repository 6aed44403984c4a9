from __future__ import annotations

import os
from collections.abc import Iterator
from pathlib import Path

import pytest
import torch
from hypothesis import settings

if not torch.cuda.is_available():
    os.environ.setdefault("TRITON_INTERPRET", "1")  # Triton reads it when it is imported

settings.register_profile("quorate", deadline=None, max_examples=25, derandomize=True)  # machines are busy at times
settings.register_profile("thorough", deadline=None, max_examples=200)  # pytest --hypothesis-profile thorough
settings.load_profile("quorate")


@pytest.fixture
def forked_workers() -> Iterator[None]:
    """Real workers begin in no time, by fork; the run that starts them is one of this process."""
    from tests.forked import launching

    with launching():
        yield


@pytest.fixture
def without_reports(monkeypatch: pytest.MonkeyPatch) -> None:
    """Runs of this process write no report.html, which takes as long as a short run."""
    monkeypatch.setattr("quorate.folder.write_report", lambda folders, path: None)


@pytest.fixture
def data_folder(request: pytest.FixtureRequest) -> Path:
    """The folder that QUORATE_DATA names; skips unless it holds what the test's `data` marks name.

    `@pytest.mark.data("libsvm/a9a")` states what a test reads.
    """
    named = os.environ.get("QUORATE_DATA")
    for mark in request.node.iter_markers("data"):
        for file in mark.args:
            if not named or not (Path(named) / file).is_file():
                pytest.skip(f"QUORATE_DATA names no folder with {file}")
    return Path(named or ".")
