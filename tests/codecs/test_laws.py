"""Laws of every codec: what travels, and what is remembered.

Further laws: what is lost (`test_laws_of_loss.py`), strange updates and messages (`test_laws_of_edges.py`), and memory
(`test_laws_of_size.py`).
"""

from __future__ import annotations

from dataclasses import dataclass, fields
from types import ModuleType

import pytest
import torch

from quorate.codecs import Plain
from quorate.codecs.error_feedback import ErrorFeedback
from quorate.trees import flatten, leaves, nest
from quorate.wire import Ragged, Wire
from tests.codecs.laws import NAMES, SIZE, STEPS, at, drawn, examples, law, of_name

LOSSLESS = {"identity", "chain"}


def test_the_folder_is_found():
    assert set(NAMES) >= LOSSLESS


@law
def test_decoding_keeps_shape_and_dtype_and_leaves_like_alone(name, d, dtype, seed, number):
    codec, updates = drawn(name, d, dtype, seed, number)
    like = updates[1].clone()
    head, side, _ = codec.encode(updates[0].clone(), codec.init(updates[0]), at(0, seed))
    decoded = codec.decode(head, side, like, at(0, seed))
    assert (decoded.shape, decoded.dtype) == ((d,), dtype)
    assert torch.equal(like, updates[1])


@law
def test_emits_what_it_has_declared(name, d, dtype, seed, number):
    codec, updates = drawn(name, d, dtype, seed, number)
    state = codec.init(updates[0])
    declared = codec.emits(updates[0])
    for step in range(STEPS):
        head, side, state = codec.encode(updates[0].clone(), state, at(0, seed, step))
        said = (head, *side)
        if isinstance(declared, Ragged):
            assert [(each.shape[1:], each.dtype) for each in said] == [(e.shape[1:], e.dtype) for e in declared]
            assert all(len(each) <= len(most) for each, most in zip(said, declared, strict=True))
        else:
            assert [(each.shape, each.dtype) for each in said] == [(each.shape, each.dtype) for each in declared]


@law
def test_equal_arguments_give_equal_messages_and_global_chance_is_left_alone(name, d, dtype, seed, number):
    codec, updates = drawn(name, d, dtype, seed, number)
    before, results = torch.get_rng_state(), []
    for _ in range(2):
        state, said = codec.init(updates[0]), []
        for step in range(STEPS):
            head, side, state = codec.encode(updates[step].clone(), state, at(2, seed, step))
            said += [head.clone(), *side, codec.decode(head, side, updates[0], at(2, seed, step)).clone()]
        results.append(said + [tensor for _, tensor in leaves(state)])
    assert all(torch.equal(a, b) for a, b in zip(*results, strict=True))
    assert torch.equal(torch.get_rng_state(), before)


@law
def test_state_survives_a_checkpoint(name, d, dtype, seed, number):
    """What a checkpoint holds is flat; an encoder that goes on from it says what it would have said."""
    codec, updates = drawn(name, d, dtype, seed, number)
    straight, restored = codec.init(updates[0]), codec.init(updates[0])
    for step in range(STEPS):
        restored = nest(flatten(restored))
        head, side, straight = codec.encode(updates[step].clone(), straight, at(0, seed, step))
        again, side_again, restored = codec.encode(updates[step].clone(), restored, at(0, seed, step))
        assert all(torch.equal(a, b) for a, b in zip((head, *side), (again, *side_again), strict=True))
        after, after_again = flatten(straight), flatten(restored)
        assert after.keys() == after_again.keys()
        assert all(torch.equal(after[key], after_again[key]) for key in after)


@law
def test_the_state_shares_no_memory_with_the_update_or_its_message(name, d, dtype, seed, number):
    codec, updates = drawn(name, d, dtype, seed, number)
    given = updates[0].clone()
    head, side, state = codec.encode(given, codec.init(given), at(0, seed))
    others = {tensor.untyped_storage().data_ptr() for tensor in (given, head, *side)}
    assert not others & {tensor.untyped_storage().data_ptr() for _, tensor in leaves(state)}


@law
def test_what_is_taken_and_what_is_left_make_up_the_update(name, d, dtype, seed, number):
    codec, updates = drawn(name, d, dtype, seed, number)
    left, again = updates[0].clone(), updates[0].clone()
    head, side, state = codec.take(left, codec.init(left), at(0, seed))
    said = codec.decode(head.clone(), side, updates[1], at(0, seed))
    if not isinstance(codec, ErrorFeedback):  # which leaves nothing: it remembers
        torch.testing.assert_close(left + said, updates[0])
    head_again, side_again, state_again = codec.encode(again, codec.init(again), at(0, seed))
    assert all(torch.equal(a, b) for a, b in zip((head, *side), (head_again, *side_again), strict=True))
    assert flatten(state).keys() == flatten(state_again).keys()


@law
def test_a_message_is_added_as_it_is_decoded(name, d, dtype, seed, number):
    codec, updates = drawn(name, d, dtype, seed, number)
    head, side, _ = codec.encode(updates[0].clone(), codec.init(updates[0]), at(0, seed))
    total = updates[1].clone()
    codec.add(total, head.clone(), side, 0.25, at(0, seed))
    decoded = codec.decode(head, side, updates[0], at(0, seed))
    torch.testing.assert_close(total, updates[1] + 0.25 * decoded)


@law
def test_what_is_declared_summable_may_be_summed_on_its_way(name, d, dtype, seed, number):
    codec, updates = drawn(name, d, dtype, seed, number)
    facts = codec.wire(Wire())
    if not (facts.summable and facts.aligned):
        return
    said = [codec.encode(update.clone(), codec.init(update), at(rank, seed)) for rank, update in enumerate(updates)]
    total = torch.stack([head for head, _, _ in said]).sum(dim=0)
    one_by_one = sum(
        codec.decode(head.clone(), side, updates[0], at(rank, seed)) for rank, (head, side, _) in enumerate(said)
    )
    rounding = 4 * SIZE * torch.finfo(total.dtype if total.is_floating_point() else dtype).eps
    for rank, (_, side, _) in enumerate(said):
        together = codec.decode(total.clone(), side, updates[0], at(rank, seed))
        torch.testing.assert_close(together, one_by_one, rtol=rounding, atol=rounding * float(updates.abs().max()))


@law(names=NAMES)
def test_declares_the_same_every_time(name, d, dtype, seed, number):
    codec, updates = drawn(name, d, dtype, seed, number)
    assert codec.wire(Wire()) == codec.wire(Wire())
    first, second = codec.init(updates[0]), codec.init(updates[1])
    assert {key: (tensor.shape, tensor.dtype) for key, tensor in leaves(first)} == {
        key: (tensor.shape, tensor.dtype) for key, tensor in leaves(second)
    }


@law
def test_lossless_codecs_lose_nothing(name, d, dtype, seed, number):
    codec, updates = drawn(name, d, dtype, seed, number)
    if name in LOSSLESS:
        head, side, _ = codec.encode(updates[0].clone(), codec.init(updates[0]), at(0, seed))
        assert torch.equal(codec.decode(head, side, updates[1], at(0, seed)), updates[0])


@pytest.mark.parametrize("name", NAMES)
def test_a_codec_is_its_settings(name):
    for codec in of_name(name):
        assert hash(codec) == hash(codec)
        assert type(codec)(**{each.name: getattr(codec, each.name) for each in fields(codec)}) == codec


@dataclass(frozen=True)
class Rounded(Plain):
    digits: int
    way: str = "up"


def test_a_codec_that_can_not_be_made_must_give_examples():
    module = ModuleType("quorate.codecs.rounded")
    with pytest.raises(AssertionError) as error:
        examples(module, Rounded)
    assert str(error.value) == (
        "quorate.codecs.rounded has no EXAMPLES, but Rounded can't be made without digits"
        "\nhint: EXAMPLES = (Rounded(digits=...),)"
    )
    module.EXAMPLES = (Rounded(3),)
    assert examples(module, Rounded) == (Rounded(3),)
