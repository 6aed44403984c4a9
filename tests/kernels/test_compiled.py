"""The compiler for GPUs needs none: what the interpreter accepts but a GPU would not is found on any machine."""

from __future__ import annotations

import json
import os
import subprocess
import sys

import pytest

pytest.importorskip("triton", reason="kernels need triton: pip install 'quorate[triton]'")

KERNELS = {
    *(f"above.{name}" for name in ("_find", "_fetch", "_reread")),
    *(f"{name}.{each}" for name in ("int8", "signs") for each in ("_say", "_hear")),
    "blocks._largest",
    "sums._reduce",
    "take._take",
}
SCATTERED = {"above._fetch", "take._take"}


@pytest.fixture(scope="module")
def launches(tmp_path_factory):
    """What the compiler made of every launch, for compute capabilities 8.0 and 9.0."""
    plain = {name: value for name, value in os.environ.items() if not name.startswith("TRITON_")}
    cache = tmp_path_factory.mktemp("triton")
    done = subprocess.run(
        [sys.executable, "-m", "tests.kernels.compiling"],
        env={**plain, "TRITON_CACHE_DIR": str(cache)},
        capture_output=True,
        text=True,
    )
    assert done.returncode == 0, done.stderr[-3000:]
    return [json.loads(line) for line in done.stdout.splitlines()]


def test_every_kernel_compiles(launches):
    assert {each["kernel"] for each in launches} == KERNELS
    assert all(each["bytes"] > 1000 for each in launches)


def test_passes_over_updates_move_16_bytes_at_a_time_whatever_their_length(launches):
    assert [each for each in launches if each["kernel"] not in SCATTERED and not each["wide"]] == []


def test_quantisers_round_products_before_they_add_them(launches):
    exact = [each for each in launches if each["kernel"].startswith(("int8", "signs"))]
    assert exact
    assert not any(each["fusion_allowed"] or each["fused"] for each in exact)
