from __future__ import annotations

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from quorate import bit_packing
from quorate.errors import QuorateError

codes = st.integers(1, 8).flatmap(
    lambda bits: st.tuples(st.just(bits), st.lists(st.integers(0, (1 << bits) - 1), max_size=70))
)


@given(codes)
def test_code_by_code_lowest_bit_first(bits_codes):
    bits, given_codes = bits_codes
    packed = bit_packing.pack(torch.tensor(given_codes, dtype=torch.uint8), bits)
    number = sum(code << bits * place for place, code in enumerate(given_codes))
    assert bytes(packed.tolist()) == number.to_bytes(bit_packing.size(len(given_codes), bits), "little")
    assert bit_packing.unpack(packed, len(given_codes), bits).tolist() == given_codes


@given(codes, st.integers(0, 9))
def test_codes_and_bytes_may_lie_anywhere_in_memory(bits_codes, offset):
    bits, given_codes = bits_codes
    plain = torch.tensor(given_codes, dtype=torch.uint8)
    memory = torch.zeros(offset + len(plain), dtype=torch.uint8)
    memory[offset:] = plain
    strided = torch.zeros(2 * len(plain), dtype=torch.uint8)[::2].copy_(plain)
    packed = bit_packing.pack(plain, bits)
    assert torch.equal(bit_packing.pack(memory[offset:], bits), packed)
    assert torch.equal(bit_packing.pack(strided, bits), packed)
    moved = torch.cat([torch.zeros(offset, dtype=torch.uint8), packed])[offset:]
    assert torch.equal(bit_packing.unpack(moved, len(plain), bits), plain)


@given(bits=st.integers(1, 8), count=st.integers(0, 70), seed=st.integers(0, 999))
def test_any_bytes_are_codes_below_the_limit(bits, count, seed):
    generator = torch.Generator().manual_seed(seed)
    drawn = torch.randint(0, 256, (bit_packing.size(count, bits),), dtype=torch.uint8, generator=generator)
    found = bit_packing.unpack(drawn, count, bits)
    assert found.shape == (count,)
    assert (found < 1 << bits).all() if bits < 8 else torch.equal(found, drawn)


@pytest.mark.parametrize("bits", range(1, 9))
@pytest.mark.parametrize("more", [-1, 1])
def test_another_number_of_bytes_is_refused_before_memory_is_taken(bits, more):
    packed = torch.zeros(bit_packing.size(1 << 40, bits) % 1000 + 8 + more, dtype=torch.uint8)
    with pytest.raises(QuorateError, match="the message is damaged"):
        bit_packing.unpack(packed, 1 << 40, bits)
    with pytest.raises(QuorateError, match=r"packed in torch\.float32"):
        bit_packing.unpack(torch.zeros(bits), 8, bits)
    with pytest.raises(QuorateError, match="-8 codes"):
        bit_packing.unpack(torch.zeros(0, dtype=torch.uint8), -8, bits)


@pytest.mark.parametrize("bits", [0, 9])
def test_codes_have_1_to_8_bits(bits):
    with pytest.raises(ValueError, match=f"codes have 1 to 8 bits, got {bits}"):
        bit_packing.pack(torch.zeros(8, dtype=torch.uint8), bits)
