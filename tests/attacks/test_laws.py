"""Laws of every attack; a new file in `quorate/attacks` is tested unasked.

Instances come from the module's `EXAMPLES`, or are the class itself with its defaults.
"""

from __future__ import annotations

from dataclasses import FrozenInstanceError, fields, is_dataclass, replace

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from quorate import parts
from quorate.attacks import Attack
from quorate.attacks.not_finite import NotFinite
from quorate.errors import RecipeError
from quorate.rand import Rand
from quorate.tasks import Data
from tests.attacks.lab import NAMES, examples, meeting
from tests.tiny import randn

sizes = st.integers(2, 9).flatmap(lambda n: st.tuples(st.just(n), st.integers(1, n - 1)))
draws = given(n_f=sizes, d=st.integers(1, 9), known=st.sampled_from(["honest", "own", 1]), seed=st.integers(0, 10**6))
laws = [pytest.mark.parametrize("name", NAMES), draws, settings(deadline=None, max_examples=20)]


def law(test):
    """Check on every attack, for meetings of any number of workers and liars, who know everything or little."""
    for each in reversed(laws):
        test = each(test)
    return test


def seen_by_all(n_f, d, known, seed, **more):
    """Return what each of the hostile sees; f = 1, m = 1 and d = 1 among them."""
    n, f = n_f
    return meeting(n, f, d, m={"honest": n - f, "own": f, 1: 1}[known], seed=seed, **more)


def messages(attack, seen):
    """Return all that a liar may say in a meeting; None is silence."""
    return [attack.forge(seen), *(attack.forge_for(seen, peer) for peer in range(seen.at.size))]


def same(a, b):
    """Whether two messages are; NaN equals NaN, and silence silence."""
    return a is b if a is None or b is None else torch.equal(a.nan_to_num(7.0), b.nan_to_num(7.0))


def test_the_folder_is_found():
    assert {"sign_flip", "not_finite", "label_flip", "crash"} <= set(NAMES)


@law
def test_keeps_shape_dtype_and_finiteness_and_writes_to_nothing(name, n_f, d, known, seed):
    for attack in examples(name):
        for dtype in (torch.float64, torch.float32, torch.float16, torch.bfloat16):
            for seen in seen_by_all(n_f, d, known, seed, dtype=dtype):
                own, others, last = seen.own.clone(), seen.known.clone(), randn(d).to(dtype)
                seen = replace(seen, last=last.clone())
                for said in messages(attack, seen):
                    if said is None:
                        continue
                    assert (said.shape, said.dtype) == ((d,), dtype)
                    assert bool(said.isfinite().all()) != isinstance(attack, NotFinite)
                    said.fill_(3.0)
                assert torch.equal(seen.own, own)
                assert torch.equal(seen.known, others)
                assert torch.equal(seen.last, last)


@law
def test_is_a_function_of_what_is_seen(name, n_f, d, known, seed):
    for attack in examples(name):
        for seen, again in zip(*(seen_by_all(n_f, d, known, seed, step=3) for _ in range(2)), strict=True):
            assert all(same(a, b) for a, b in zip(messages(attack, seen), messages(attack, again), strict=True))


@law
def test_those_that_are_alike_say_the_same_whoever_speaks(name, n_f, d, known, seed):
    for attack in examples(name):
        said = [messages(attack, seen) for seen in seen_by_all(n_f, d, known, seed)]
        if attack.alike:
            assert all(same(a, b) for each in said[1:] for a, b in zip(each, said[0], strict=True))


@pytest.mark.parametrize("name", NAMES)
def test_those_that_are_not_alike_differ_in_some_meeting(name):
    attacks = [
        attack for attack in examples(name) if not attack.alike and (name, attack) != ("not_finite", NotFinite())
    ]
    if attacks:
        pairs = [[attack.forge(seen) for seen in meeting(9, 2, 50, step=6)] for attack in attacks]
        assert any(not same(first, second) for first, second in pairs)


@pytest.mark.parametrize("name", NAMES)
@pytest.mark.parametrize("bad", [float("nan"), float("inf"), 1e38, -3e38, 0.0, 1e-42])
def test_honest_updates_that_are_broken_themselves_do_not_stop_it(name, bad):
    for attack in examples(name):
        for seen in meeting(7, 2, 4, dtype=torch.float32):
            known = seen.known.clone()
            known[0, 1], known[1] = bad, bad
            for said in messages(attack, replace(seen, known=known)):
                if said is not None and not isinstance(attack, NotFinite) and seen.own.isfinite().all():
                    assert said.isfinite().all()


@pytest.mark.parametrize("name", NAMES)
@pytest.mark.parametrize("device", ["cpu", "cuda"])
def test_says_it_on_the_device_of_the_updates(name, device):
    if device == "cuda" and not torch.cuda.is_available():
        pytest.skip("needs a GPU")
    for attack in examples(name):
        on_cpu = meeting(7, 2, 4, dtype=torch.float32)[0]
        seen = replace(on_cpu, own=on_cpu.own.to(device), known=on_cpu.known.to(device))
        for said, there in zip(messages(attack, seen), messages(attack, on_cpu), strict=True):
            assert (said is None) == (there is None)
            if said is not None:
                assert said.device.type == device
                torch.testing.assert_close(said.cpu(), there, equal_nan=True)


samples = {
    "images": randn(12, 3, 6, 6),
    "grey": randn(12, 6, 6),
    "flat": randn(12, 64),
    "narrow": randn(12, 2),
    "one": randn(12, 1),
    "bytes": torch.arange(12 * 16, dtype=torch.uint8).reshape(12, 4, 4),
    "text": torch.arange(12 * 5).reshape(12, 5),
    "users": torch.arange(12),
    "none": randn(0, 4),
}
labels = {
    "classes": torch.arange(12) % 3,
    "two": torch.arange(12) % 2 * 2 - 1,
    "ratings": torch.arange(12) / 2,
    "text": torch.arange(12 * 5).reshape(12, 5) % 3,
    "single": torch.full((12,), 2),
}


@pytest.mark.parametrize("name", NAMES)
@pytest.mark.parametrize(("x", "y"), [(x, "classes") for x in samples] + [("flat", y) for y in labels])
def test_poisoned_data_are_data_of_the_same_kind(name, x, y):
    n = len(samples[x])
    before = Data(samples[x].clone(), labels[y][:n].clone(), torch.arange(n))
    for attack in examples(name):
        after, again = (attack.poisoned(before, 3, Rand(5)) for _ in range(2))
        assert (after.x.shape, after.x.dtype) == (before.x.shape, before.x.dtype)
        assert (after.y.shape, after.y.dtype) == (before.y.shape, before.y.dtype)
        assert torch.equal(after.key, before.key)
        assert torch.equal(after.x, again.x)
        assert torch.equal(after.y, again.y)
        assert torch.equal(before.x, samples[x])
        assert torch.equal(before.y, labels[y][:n])
        if not before.y.is_floating_point() and y != "two" and n:
            assert 0 <= int(after.y.min()) <= int(after.y.max()) < 3


@pytest.mark.parametrize("name", NAMES)
def test_is_a_frozen_dataclass_that_recipes_can_name(name):
    for attack in examples(name):
        assert isinstance(attack, Attack)
        assert is_dataclass(attack)
        if fields(attack):
            field = fields(attack)[0].name
            with pytest.raises(FrozenInstanceError):
                setattr(attack, field, getattr(attack, field))
    assert isinstance(parts.build("attack", {"name": name}), Attack)
    with pytest.raises(RecipeError, match="unknown setting"):
        parts.build("attack", {"name": name, "strenght": 1.0})
