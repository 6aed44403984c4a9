"""Laws of every codec: memory that does not grow with temporaries, and updates of 10**8 entries."""

from __future__ import annotations

import math
import os
import subprocess
import sys
from pathlib import Path

import pytest
import torch

from quorate.codecs.chain import Chain
from quorate.codecs.error_feedback import ErrorFeedback
from quorate.codecs.fp16 import Fp16
from quorate.codecs.int8 import Int8
from quorate.codecs.one_bit import OneBit
from quorate.codecs.qsgd import Qsgd
from quorate.codecs.sign import Sign
from quorate.codecs.top_k import TopK
from tests.codecs.laws import SPEAKING, at
from tests.tiny import randn

D = 1 << 22
MIB = 1 << 20
TEMPORARIES = 2
PER_BYTE = 8
"""Bytes that a codec of chosen entries may take for their indices, per byte that it says."""
PEAK = Path("/proc/self/clear_refs")

MEASURE = f"""
import re, sys
from pathlib import Path
import torch
from quorate.codecs.error_feedback import sparsifier_of
from quorate.codecs.random_k import RandomK
from quorate.wire import size_in_bytes
from tests.codecs.laws import at, of_name

def resident(field):
    return int(re.search(field + r":\\s+(\\d+) kB", Path("/proc/self/status").read_text())[1]) * 1024

torch.set_num_threads(1)
for codec in of_name(sys.argv[1]):
    for way in (codec.encode, codec.take):
        state = codec.init(torch.zeros({D}))
        way(torch.randn(4096), codec.init(torch.zeros(4096)), at(0, 0))
        x = torch.randn({D}, generator=torch.Generator().manual_seed(0))
        Path("{PEAK}").write_text("5")
        before = resident("VmRSS")
        head, side, state = way(x, state, at(0, 0))
        took = resident("VmHWM") - before
        said = size_in_bytes(tuple(each for each in (head, *side) if each.data_ptr() != x.data_ptr()))
        sparse = sparsifier_of(codec) is not None or isinstance(codec, RandomK)
        print(took - said * (1 + {PER_BYTE} * sparse), codec, way.__name__)
        del head, side, state, x
"""


@pytest.mark.skipif(not os.access(PEAK, os.W_OK), reason="no peak of resident memory to be read here")
@pytest.mark.slow
@pytest.mark.parametrize("name", SPEAKING)
def test_takes_two_temporaries_of_full_size_at_most(name):
    """Besides its message; 16 MiB are for pieces, tables and what the allocator rounds up."""
    environment = {**os.environ, "MALLOC_MMAP_THRESHOLD_": "262144", "MALLOC_TRIM_THRESHOLD_": "0"}
    done = subprocess.run(
        [sys.executable, "-c", MEASURE, name], env=environment, check=True, capture_output=True, text=True
    )
    lines = done.stdout.splitlines()
    assert lines
    assert [line for line in lines if int(line.split()[0]) > TEMPORARIES * 4 * D + 16 * MIB] == []


@pytest.mark.slow
@pytest.mark.parametrize(
    "codec", [Int8(), Sign(), OneBit(), Qsgd(), Fp16(), ErrorFeedback(Chain((TopK(0.001), Int8())))], ids=str
)
def test_an_update_of_a_hundred_million_entries(codec):
    """What is said of it is within the bound, and its first and last entries are said like those of a short one."""
    d = 10**8
    x = randn(1000).repeat(d // 1000)
    squared = 1000 * float(x[:1000].square().mean()) * (d // 1000)
    head, side, _ = codec.encode(x.clone(), codec.init(x), at(0, 0))
    codec.add(x, head, side, -1.0, at(0, 0))
    lost = math.fsum(float(piece.square().sum()) for piece in x.split(1 << 20)) / squared
    assert lost <= codec.bound(d) * 1.001
    if not codec.unbiased and torch.is_floating_point(x):
        assert lost < 1
