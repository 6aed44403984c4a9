"""When kernels are used, and that codecs which use them say what they say elsewhere."""

from __future__ import annotations

import math
import os
import subprocess
import sys

import pytest
import torch

from quorate import kernels, selection
from quorate.codecs.block_top_k import BlockTopK
from quorate.codecs.dgc_sample import DgcSample
from quorate.codecs.error_feedback import ErrorFeedback
from quorate.codecs.gaussian_k import GaussianK
from quorate.codecs.int8 import Int8
from quorate.codecs.one_bit import OneBit
from quorate.codecs.redsync import Redsync
from quorate.codecs.sampled_k import SampledK
from quorate.codecs.sign import Sign
from quorate.codecs.threshold import Threshold
from quorate.codecs.top_k import TopK
from quorate.errors import QuorateError, RecipeError
from quorate.trees import flatten
from tests.codecs.laws import at
from tests.kernels.devices import DEVICE, INTERPRETED, drawn, use_kernels

SPARSIFIERS = [TopK(0.01), SampledK(0.1), GaussianK(0.01), DgcSample(0.05, sample=0.5), Redsync(0.01), Threshold(2.0)]
QUANTISERS = [Int8(), Int8(block=24), Sign(), Sign(block=8), OneBit(), OneBit(block=40)]
UPDATES = [drawn(5_000, seed) for seed in range(3)]


def told(codec, device: str):
    """Return all that is said, kept and heard of updates, on the CPU."""
    everything, state = [], codec.init(UPDATES[0].to(device))
    for step, update in enumerate(UPDATES):
        x, total = update.to(device).clone(), torch.ones(len(update), device=device)
        head, side, state = codec.encode(x, state, at(0, 0, step))
        codec.add(total, head.clone(), side, 0.5, at(0, 0, step))
        everything += [head, *side, total, codec.decode(head.clone(), side, x, at(0, 0, step))]
    return [tensor.cpu() for tensor in [*everything, *flatten(state).values()]]


@pytest.mark.parametrize("codec", [*SPARSIFIERS, BlockTopK(64), *QUANTISERS], ids=str)
@pytest.mark.parametrize("remembers", [False, True], ids=["alone", "error_feedback"])
def test_codecs_say_with_kernels_what_they_say_without(monkeypatch, codec, remembers):
    codec = ErrorFeedback(codec) if remembers else codec
    wanted = told(codec, "cpu")
    lengths = use_kernels(monkeypatch)
    found = told(codec, DEVICE)
    assert lengths.count(5_000) >= len(UPDATES)
    for one, other in zip(found, wanted, strict=True):
        if one.dtype == torch.uint8:
            assert torch.equal(one, other)
        else:
            torch.testing.assert_close(one, other)


def test_selection_is_that_of_the_definitions(monkeypatch):
    x, lengths = UPDATES[0], use_kernels(monkeypatch)
    average, top = selection.mean_and_largest_magnitude(x)
    assert (average, top) == (pytest.approx(float(x.abs().mean())), float(x.abs().max()))
    mean, deviation = selection.moments(x)
    assert mean == pytest.approx(float(x.mean()), abs=1e-5)
    assert deviation == pytest.approx(float(x.std(correction=0)), rel=1e-5)
    assert lengths == [len(x)] * 2


def test_the_processor_needs_no_kernels():
    assert not kernels.usable(torch.ones(9))
    assert kernels.usable(torch.ones(9, device=DEVICE)) is (DEVICE == "cuda")


def test_kernels_are_not_for_every_vector():
    assert kernels.fitting(torch.ones(9), block=kernels.LONGEST)
    assert not kernels.fitting(torch.ones(9), block=kernels.LONGEST + 1)
    assert not kernels.fitting(torch.ones(0))
    assert not kernels.fitting(torch.ones(9, dtype=torch.float64))
    assert not kernels.fitting(torch.ones(9)[::2])


@pytest.mark.parametrize("codec", QUANTISERS, ids=str)
def test_other_numbers_and_damaged_messages_are_refused_as_ever(monkeypatch, codec):
    use_kernels(monkeypatch)
    with pytest.raises(RecipeError, match=r"float32 or float64, got torch\.float16"):
        codec.encode(UPDATES[0].half(), {}, at(0, 0))
    head, side, _ = codec.encode(UPDATES[0].clone(), {}, at(0, 0))
    for wrong, numbers in (
        (head[:-1], side[0]),
        (head.float(), side[0]),
        (head, side[0][1:]),
        (head, side[0].clone().fill_(math.nan)),
    ):
        with pytest.raises(QuorateError, match="damaged"):
            codec.decode(wrong, (numbers,), UPDATES[0], at(0, 0))
        with pytest.raises(QuorateError, match="damaged"):
            codec.add(UPDATES[0].clone(), wrong, (numbers,), 1.0, at(0, 0))


@pytest.mark.skipif(INTERPRETED, reason="all of these tests have run in the interpreter")
def test_the_same_tests_pass_in_the_interpreter():
    child = [sys.executable, "-m", "pytest", "-q", "-p", "no:cacheprovider", os.path.dirname(__file__)]
    done = subprocess.run(child, env={**os.environ, "TRITON_INTERPRET": "1"}, capture_output=True, text=True)
    assert done.returncode == 0, done.stdout[-3000:]
